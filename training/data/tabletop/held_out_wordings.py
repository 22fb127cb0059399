"""Wordings that measure and never train: the names of objects and qualities are those that training teaches."""

from __future__ import annotations

from training.data.tabletop.wordings import NAMES, RELATIONS, SUPERLATIVES, Wordings, listed

# Never in training, word for word and in their structure.
HELD_OUT = Wordings(
    frames=listed("""
Could I get {it} from you? | Would it be possible to reach {it}? | Have you any idea where {it} might be?
Move your arm towards {it}. | Try to get hold of {it}. | We are going to work with {it}. | What I am after {be} {it}.
If you see {it}, grasp {them}. | I can't see {it} myself, show me! | My friend asked for {it}.
Make {it} your target. | Please be so kind as to pass me {it}. | How do I get to {it}? | Start with {it}.
Show everybody where {it} {be}. | {it}: can you reach {them}? | Among all this stuff, spot {it} for me.
Do me a favour and take {it}. | I wonder where {it} {be}. | You should pick out {it}. | Where did I leave {it}?
Let's go for {it}. | Put a mask over {it}, would you? | Are you able to grip {it}?
    """),
    capital=True,
    names=NAMES,
    category=listed("""
the {noun} | the {noun} | the {noun} over there | the {noun} on the table | one {noun}
    """),
    color=listed("""
the {color} object | the thing with the color {color} | the object colored {color} | an object which is {color}
    """),
    color_category=listed("""
the {color} {noun} | the {color} {noun} | the {color} {noun} over there | the {noun} with the color {color}
the {noun} colored {color} | one {noun} which is {color} | the {color} one, a {noun}
    """),
    superlative=listed("""
the {most} {noun} | the {most} {noun} on the table | the {most} one of all the {nouns} | the very {most} {noun}
whichever {noun} is {most} | the {noun} that is the {most} of all
    """),
    superlatives=SUPERLATIVES,
    spatial=listed("""
the {noun} {where} {the} | the {noun} which you can see {where} {the} | the {noun} located {where} {the}
the {noun} over there {where} {the} | whichever {noun} is {where} {the}
    """),
    relations=RELATIONS,
    several=listed("""
all the {nouns} | each one of the {nouns} | the {nouns}, every one | all the {nouns} on the table
any and all {nouns}
    """),
    several_color=listed("""
all the {color} objects | each one of the {color} things | any and all {color} objects | all objects which are {color}
    """),
    negation=listed("""
the {noun} that is not {color} | the {noun} with a color that is not {color} | some {noun}, just not the {color} one
whichever {noun} is not {color} | the {noun} that is anything but {color} | the {noun}, but not if it is {color}
    """),
    questions={
        "mug": listed("What would I pour coffee into, to drink it? | Which of these do people drink tea from?"),
        "duck": listed("Which of these would quack? | Which toy goes in the bath and floats?"),
        "bear": listed("Which of these would you cuddle at night? | Which stuffed animal is fond of honey?"),
        "bunny": listed("Which of these likes to eat carrots? | Whose ears are long?"),
        "soccer ball": listed("Which of these would you kick? | With what does one score a goal?"),
        "ball": listed("Which of these is a sphere, plain and smooth? | Which thing is smooth and perfectly round?"),
        "brick": listed("With what could I build a tower? | Which of these has studs on top?"),
        "cube": listed("Which of these has faces that are all square? | Which solid looks like a plain box?"),
        "cylinder": listed("Which of these has the shape of a can? | Which solid is like an upright tube?"),
    },
    things={
        "mug": listed("the one to drink coffee from | a thing you drink tea from"),
        "duck": listed("the toy bird that floats | an animal that quacks"),
        "bear": listed("the stuffed animal to cuddle | something to hug at night"),
        "bunny": listed("the toy animal with long ears | something that eats carrots"),
        "soccer ball": listed("the one to kick in a match | the toy to score a goal with"),
        "ball": listed("the smooth plain sphere | the thing that is plain and round"),
        "brick": listed("the block to build with | the studded thing that clicks onto others"),
        "cube": listed("the block with six square faces | the square solid like a box"),
        "cylinder": listed("the round upright tube | the solid that looks like a can"),
    },
)

# Written without a look at what training hears: as others talk to a robot, so some of it may be the same.
BLIND = Wordings(
    frames=listed("""
Would you be so kind as to pass me {it}? | gimme {it} | Hey buddy, do me a favour and scoop up {it}, will you?
Execute a grasp on {it}. | Nurse here, my hands are busy. Could you lift {it} for me, dear?
robot robot!! i wanna play with {it}!! | Next pick: {it}. | Chef wants {it}, chop chop!
Please to take {it}, thank you. | I want that you bring me {it}. | Do you see {it}? Go fetch {them}.
Where {be} {it}? I need {them}. | Set grasp target to {it} and proceed. | ok so um, maybe try and get hold of {it} now
{it} please | Might I trouble you for {it}? | I'd love to have {it}, if you don't mind.
The customer ordered {it}, so go ahead and pull {them}. | Alright, arm, reach out and grip {it} gently.
can u hand me {it} pls | We could really use {it}, so kindly deliver {them}.
Pick {it} up, careful with your fingers! | Retrieve {it}; hold until released. | Tell me where {it} {be}.
Mommy said you can get {it} for me | You give me {it}, yes?
Our patient has been asking for {it}, would you pick {them} up? | I was wondering whether you could point at {it}?
Focus on {it} and then collect {them}, mate. | LIFT {it} NOW
    """),
    names=NAMES,
    category=listed("""
the {noun} | that {noun} | the toy {noun} | the {noun} you can see | the {noun} sitting there | that {noun} of ours
    """),
    color=listed("""
the {color} one | that {color} thing | the item that is {color} | the one in {color}
the thing whose colour is {color} | the {color}-colored item
    """),
    color_category=listed("""
the {color} {noun} | the {noun} that is {color} | that {noun} in {color} | the {color}-coloured {noun}
the {noun}, the {color} one | whichever {noun} looks {color} | the {noun} with the color {color}
the {noun} painted {color}
    """),
    superlative=listed("""
the {most} {noun} | the {noun} that is {most} | the {most} of the {nouns} | the {most} one among those {nouns}
whichever {noun} is the {most} | the {most} {noun} you can find | of the {nouns}, the {most} one
the {noun}, I mean the {most} one
    """),
    superlatives=SUPERLATIVES,
    spatial=listed("""
the {noun} {where} {the} | the {noun} that is {where} {the} | the {noun} sitting {where} {the}
that {noun} you see {where} {the} | whichever {noun} is {where} {the} | the {noun} which has been placed {where} {the}
the {noun}, the one {where} {the}
    """),
    relations=RELATIONS,
    several=listed("""
all the {nouns} | every single {noun} | the {nouns}, all of them | each and every {noun}
all of those {nouns} you can see | the whole bunch of {nouns}
    """),
    several_color=listed("""
everything {color} | all the {color} things | every item that is {color} | all of the {color} stuff
each and every {color} object | all the things in {color}
    """),
    negation=listed("""
the {noun} that is not {color} | the {noun} that isn't {color} | the non-{color} {noun}
the {noun} in a colour other than {color} | the {noun} of any color except {color}
the {noun}, but not the {color} one | the one {noun} that doesn't look {color}
whichever {noun} is anything but {color}
    """),
    questions={
        "mug": listed("What could I drink my coffee from? | Which of these would you pour hot tea into?"),
        "duck": listed("Which one goes quack quack? | What would float around in my bath?"),
        "bear": listed(
            "Which stuffed animal would love to eat honey? | What can my little girl cuddle and hug at bedtime?"
        ),
        "bunny": listed("Who here has the long ears? | Which animal likes to nibble carrots?"),
        "soccer ball": listed("What do the players kick in a football match? | Which thing do we need to score goals?"),
        "ball": listed(
            "Which thing is a plain smooth sphere? | What here is perfectly round with nothing drawn on it?"
        ),
        "brick": listed(
            "Which toy has studs on it so you can build with it? | What would I snap together to build a toy house?"
        ),
        "cube": listed("Which thing has six square faces? | What here is shaped like a box?"),
        "cylinder": listed("Which thing has the shape of a can? | What here looks like an upright round tube?"),
    },
    things={
        "mug": listed("the thing you drink coffee out of | something to put my tea in"),
        "duck": listed("the animal that quacks | the bath toy that floats"),
        "bear": listed("the stuffed animal you cuddle | the furry one who loves honey and wants a hug"),
        "bunny": listed("the animal with the long ears | the rabbit that munches carrots"),
        "soccer ball": listed("the thing you kick to score goals | the one they play a football match with"),
        "ball": listed("the plain smooth sphere | the smooth round thing without any pattern"),
        "brick": listed("the toy piece with studs | the studded thing that kids build with"),
        "cube": listed("the box-shaped thing | the solid with six square faces"),
        "cylinder": listed("the can-shaped thing | the upright round piece that is like a tube"),
    },
)

# Asks the questions of which split, in which words.
SPLITS = {"test-wordings": ("test", HELD_OUT), "test-wordings-blind": ("test", BLIND)}
