"""The wordings that training hears. None is one of `held_out_wordings`, nor a phrasing of `test-ood`."""

from __future__ import annotations

import itertools
import random

from training.data.tabletop.wordings import NAMES, RELATIONS, SUPERLATIVES, Wordings, listed

COMPOSED = 2400  # sentences put together of the parts below
_SAID = listed("""
{it} | {it} | {it} | segment {it} | pick up {it} | pick {it} up | find {it} | where {be} {it} | {it}, please
please, {it} | {it} please | I need {it} | grasp {it} | point to {it} | give me {it} | show me {it} | pass me {it}
pass {it} | hand me {it} | hand over {it} | grab {it} | take {it} | get {it} | get me {it} | fetch {it}
fetch me {it} | bring me {it} | bring {it} to me | lift {it} | lift {it} up | hold {it} | touch {it} | reach for {it}
move to {it} | go to {it} | look at {it} | look for {it} | search for {it} | locate {it} | detect {it} | mark {it}
outline {it} | select {it} | highlight {it} | draw a box around {it} | give me a mask of {it} | identify {it}
spot {it} | show {it} | point at {it} | point out {it} | tell me where {it} {be} | where can I find {it}
where do you see {it} | can you see {it} | do you see {it} | can you find {it} | can you pass me {it}
can I have {it} | could you find {it} | could you hand me {it} | could you please pick up {it}
could you tell me where {it} {be} | would you get me {it} | would you please show me {it} | will you grab {it}
please find {it} | please give me {it} | please pick up {it} | please segment {it} | I want {it}
I want you to grab {it} | I would like {it} | I'd like to have {it} | I need you to take {it}
I am searching for {it} | I have to find {it} | help me find {it} | let me have {it} | let me see {it}
give {it} to me | put your gripper on {it} | close the gripper on {it} | now {it} | now take {it} | next, get {it}
ok, {it} | hey, where {be} {it} | hello, can you lift {it} | {it}, thanks | {it} now | {it}, where {be} {them}
{it}, can you get {them} | {it}, pick {them} up | look for {it} and take {them} | find {it} and give {them} to me
look at the table and find {it} | in this picture, find {it} | find {it} in the image | what about {it}
you have to pick up {it} | we need {it} | someone wants {it} | have you seen {it} | did you see {it} | I lost {it}
who has {it} | how far away {be} {it} | what I need {be} {it} | the target of this task {be} {it} | target: {it}
goal: {it} | task: pick {it} | object: {it} | use {it} | I mean {it} | this is about {it}
the one thing I want {be} {it} | it must be {it} | maybe {it} | I said {it} | {it}, I said | {be} {it} here
{be} {it} in this picture | is there {it} | do we have {it} | I would like to see {it} | do you know where {it} {be}
does anybody see {it} | it is about {it} | what do you think of {it} | here, {it} | {it}?
my hands are full, take {it} | my sister wants {it} | the children play with {it} | we are cleaning up, put {it} away
I am cooking, so I need {it} | I came for {it} | {it} will do | {it} would be nice | {it} and nothing else
{it} is what I want | only {it} | just {it} | just {it}, thanks | {it} for me | {it} for my son, please
we play a game: find {it} | next task: {it} | new goal, {it} | sorry, I meant {it} | you see {it}, take {them}
can you tell me if you see {it} | there should be {it} somewhere | somebody put {it} here, find {them}
""")
_OPENINGS = listed("""
|  |  | please | can you | could you | would you | will you | can you please | could you just | I want you to
I need you to | I would like you to | I'd love you to | you need to | you must | you may | you can now | it is time to
the next step is to | your job is to | your task is to | kindly | go and | go ahead and | now | then | first | quickly
carefully | slowly | if you can, | if possible, | when you are ready, | once you are done, | we want to | we have to
I plan to | I hope to | let us | help us to | be nice and | come on, | hey, | hi there, | ok, | well, | listen,
good morning, | dear helper, | for the next order, | for my friend, | in this scene, | in the picture,
here we have to | it would help to | time to | before lunch, | after that, | with care, | as a test,
I am busy, so please | I am tired, please | mum says to | the doctor asks you to | the boss told me to
my colleague wants to | we are late, so | this time, | once more,
""")
_DOING = listed("""
take {it} | get {it} | grab {it} | grip {it} | grasp {it} | pick {it} | pick up {it} | pick {it} up | lift {it}
raise {it} | hold {it} | hold on to {it} | carry {it} | move {it} | push {it} | pull {it} | turn {it} | clean {it}
wash {it} | bring me {it} | bring {it} | fetch {it} | give me {it} | give us {it} | hand me {it} | hand {it} to me
pass {it} to me | pass me {it} | throw {it} to me | deliver {it} | serve {it} | offer me {it} | show me {it}
show us {it} | show where {it} {be} | point to {it} | point your camera at {it} | aim at {it} | look at {it}
look for {it} | watch {it} | follow {it} | track {it} | find {it} | find out where {it} {be} | search {it}
discover {it} | detect {it} | recognise {it} | identify {it} | scan {it} | inspect {it} | check {it} | measure {it}
weigh {it} | count {it} | label {it} | mark {it} | tag {it} | circle {it} | outline {it} | highlight {it}
colour in {it} | cut out {it} | segment {it} | frame {it} | select {it} | choose {it} | draw a line around {it}
place a box around {it} | put a marker at {it} | touch {it} | tap {it} | knock on {it} | go to {it} | drive to {it}
come to {it} | come to where {it} {be} | reach {it} | reach out for {it} | stretch towards {it} | put {it} away
put {it} in the drawer | put {it} into the bag | set {it} aside | sort {it} | pack {it} | load {it}
open your hand and take {it} | close your fingers around {it} | close the gripper on {it} | tell me where {it} {be}
tell me about {it} | describe {it} | say where I find {it} | give me the position of {it} | give me the pixels of {it}
remove {it} | keep {it} | save {it} | avoid {it} | buy {it} | have {it} | see {it} | want {it} | play with {it}
deal with {it} | begin with {it} | continue with {it} | make sure you have {it} | handle {it} | manipulate {it}
collect {it} | gather {it}
""")
_CLOSINGS = listed("""
|  |  |  | for me | please | now | right away | at once | with your gripper | with your hand | from the table
for my sister | for the baby | and wait | and hold {them} | and bring {them} back | and give {them} to me
and put {them} down again | today | so that I can use {them} | since we need {them} | because I like {them}
before lunch | in this picture | in the image | on the photo | in the scene | in this view | as soon as you can
if you see {them} | if you can | when you can | thanks | thank you | thank you so much | would be great | will you
can you | okay | my friend | dear | robot | again | once more | and be careful | with care | slowly | quickly
and tell me | and show me | and say when you have {them} | and go home | then stop | that is it | and that will do
for the next step | for our guests | for dinner | as we planned
""")
_DOES = {
    "mug": (
        "can hold coffee | holds tea | is there to drink from | is used to drink coffee | one drinks tea from | "
        "keeps my coffee"
    ),
    "duck": (
        "quacks | can quack | floats in the bath | belongs in the bath | swims in a bathtub | "
        "is a bath toy bird | is the bird"
    ),
    "bear": (
        "likes honey | eats honey | loves honey | is nice to cuddle | a child would hug | is there to hug at night"
    ),
    "bunny": "eats carrots | has long ears | loves carrots | has the long ears | is a rabbit | is the toy rabbit",
    "soccer ball": (
        "one can kick | is used in a football match | is there to kick | scores a goal | belongs to a football match"
    ),
    "ball": (
        "is round and smooth | is a smooth sphere | is a plain sphere | is a sphere without a pattern | "
        "is a plain round one"
    ),
    "brick": (
        "has studs | one can build with | is there to build with | clicks onto another of its kind | has studs on it"
    ),
    "cube": (
        "has six square faces | is box-shaped | is like a plain box | is a square block | has square faces | "
        "looks like a box"
    ),
    "cylinder": (
        "is can-shaped | is tube-like | looks like a can | is like a tube | stands upright like a tube | "
        "is a round column"
    ),
}
_ASKING = listed(
    "what | which one | which toy | which thing | which object | which of them | what here | what thing | tell me what"
)
_MEANING = listed(
    "the thing that | the one that | the object that | the item which | whatever | the toy which | an item that"
)
_QUESTIONS = {
    "mug": (
        "what can I drink from | what do you drink tea from | I want to drink coffee | what do I use to drink coffee"
    ),
    "duck": "which one quacks | what floats in a bathtub | who quacks | what would I take to the bath",
    "bear": (
        "what would a child hug at night | what can I cuddle | which animal likes honey | who eats honey | "
        "what do I hug"
    ),
    "bunny": "who has long ears | which animal has long ears | which animal eats carrots | who eats the carrots",
    "soccer ball": (
        "what can I kick | what do you score a goal with | what do we kick in a football match | what do I kick"
    ),
    "ball": "which one is a perfectly smooth sphere | what is round and plain | what has no pattern and is round",
    "brick": "what can I build with | what do I build a house of | what do you build with",
    "cube": "which solid is box-shaped | which one is like a box | which solid has square faces | what has six faces",
    "cylinder": "which solid is tube-like | which solid is like a can | what is upright and round like a tube",
}
_THINGS = {
    "mug": (
        "something to drink from | the thing to drink coffee from | something for coffee | something to drink tea with"
    ),
    "duck": "the bath toy bird | something that quacks | the bird | the toy that floats in the bath | the bath bird",
    "bear": "something to cuddle | the stuffed animal that likes honey | the toy to hug at night | the toy to cuddle",
    "bunny": "the animal with long ears | the toy rabbit | something with long ears | the toy with the long ears",
    "soccer ball": (
        "something to kick | the thing to score a goal with | the thing for a football match | the toy to kick"
    ),
    "ball": (
        "the plain round thing | a perfectly smooth round object | the sphere without a pattern | the plain sphere"
    ),
    "brick": "something to build with | the studded toy block | the block with studs | the toy to build with",
    "cube": "the box-shaped object | the solid with six square faces | the plain square block | the plain box",
    "cylinder": "the upright round column | the can-shaped object | the tube-like solid | the upright tube",
}


def _composed() -> tuple[str, ...]:
    every = itertools.product(_OPENINGS, _DOING, _CLOSINGS)
    some = random.Random(0).sample(list(every), COMPOSED)
    return tuple(" ".join(" ".join(parts).split()) for parts in some)


def _crossed(starts: tuple[str, ...], ends: str) -> tuple[str, ...]:
    return tuple(f"{start} {end}" for start in starts for end in listed(ends))


TRAINING = Wordings(
    frames=_SAID * 12 + _composed(),
    names=NAMES,
    category=listed("""
the {noun} | the {noun} | the {noun} | the {noun} | a {noun} | that {noun} | this {noun} | my {noun} | {noun}
our {noun} | some {noun} | any {noun} | the {noun} here | the {noun} in view | the {noun} in this scene
the {noun} in the picture | the {noun} you see | the {noun} that you see | the {noun} standing here
the {noun} lying on the desk | the only {noun} | the {noun} in the middle of this mess | the nice {noun}
the old {noun} | the {noun} of my brother | the little toy, a {noun}
    """),
    color=listed("""
the {color} object | the {color} thing | the {color} one | the {color} item | a {color} object
the object that is {color} | the thing that is {color} | something {color} | something that is {color}
the thing in {color} | whatever is {color} | what is {color} | that {color} thing | {color} object
the thing painted {color} | the item in {color} color | the only {color} thing | the one that is {color}
the one in {color} | the thing whose color is {color} | what looks {color} | something in the color {color}
the object of {color} color | anything {color} | the thing that looks {color} | the {color} colored thing
the {color} coloured object | the object here, the {color} one | an item, {color} in color
the object having {color} as its color | the {color} object here | the {color} thing in view | my {color} thing
    """),
    color_category=listed("""
the {color} {noun} | the {color} {noun} | the {color} {noun} | the {color} {noun} | a {color} {noun}
that {color} {noun} | my {color} {noun} | {color} {noun} | the {noun} that is {color} | the {noun} in {color}
the {noun} of {color} color | the {noun} which is {color} | a {noun} that is {color} | the {noun}, the {color} one
the {noun} in the color {color} | the {noun} painted {color} | the {color} colored {noun}
the {color} coloured {noun} | the {noun} whose color is {color} | the {noun}, it is {color}
the {noun}, color {color} | the {noun} that looks {color} | the {noun} in {color} color
the {noun} having {color} as its color | the single {color} {noun} | that one {color} {noun} | the {color} {noun} here
the {color} {noun} in view | the {color} {noun} you see | of the {nouns} the {color} one
among the {nouns} the {color} one | the {noun}, I mean the {color} one | the {color} one of the {nouns}
the {noun} with {color} paint | our {color} {noun} | the nice {color} {noun} | the {color} kind of {noun}
some {color} {noun} | any {color} {noun} | {color}, the {noun} | the {color} toy, the {noun}
the {color} {noun} in the picture | the old {color} {noun}
    """),
    superlative=listed("""
the {most} {noun} | the {most} {noun} | the {most} {noun} | the {most} {noun} | the {noun} that is {most}
{most} {noun} | the {noun} which is the {most} | that {most} {noun} | the {most} of the {nouns}
the {noun}, the {most} one | of the {nouns} the {most} one | the {noun} which is {most} | the single {most} {noun}
the {most} among all {nouns} | of all {nouns} the {most} | among the {nouns} the {most} one
the {most} of these {nouns} | the {most} of all {nouns} | the {most} {noun} here | the {most} {noun} in view
the {most} {noun} in the image | the {most} {noun} you see | the one {noun} that is {most}
the {noun}, I mean the {most} | that {noun}, the {most} | the {most} out of the {nouns} | our {most} {noun}
only the {most} {noun} | the really {most} {noun} | a {noun}, the {most} of them | the {most} one, a {noun}
the {noun} that looks {most} | from all the {nouns} the {most} one | the {most} {noun} of this scene
which {noun} is {most}
    """),
    superlatives=SUPERLATIVES,
    spatial=listed("""
the {noun} {where} {the} | the {noun} {where} {the} | the {noun} {where} {the} | the {noun} {where} {the}
a {noun} {where} {the} | the {noun} that is {where} {the} | the {noun} which is {where} {the} | {noun} {where} {the}
that {noun} {where} {the} | the {noun} that you see {where} {the} | {where} {the}, the {noun}
the {noun} standing {where} {the} | the {noun} lying {where} {the} | the {noun} placed {where} {the}
the {noun} sitting just {where} {the} | the {noun} that stands {where} {the} | the {noun} somewhere {where} {the}
the {noun}, {where} {the} | one {noun} {where} {the} | the {noun} we see {where} {the}
the {noun} there, {where} {the} | the {noun} you find {where} {the} | my {noun} {where} {the}
the {noun} a bit {where} {the} | the {noun} directly {where} {the} | the {noun}, it is {where} {the}
any {noun} {where} {the} | {where} {the} the {noun} | {where} {the} you see the {noun} | the only {noun} {where} {the}
some {noun} {where} {the}
    """),
    relations=RELATIONS,
    several=listed("""
all the {nouns} | all the {nouns} | all {nouns} | all of the {nouns} | every {noun} | each {noun} | {nouns}
every single {noun} | all the {nouns} that you see | all {nouns} in the image | the {nouns}, all | each of the {nouns}
all these {nouns} | all those {nouns} | the {nouns}, all of them | all {nouns} here | every {noun} in view
each and every {noun} | every one of the {nouns} | all the {nouns} in the picture | the whole set of {nouns}
all {nouns} together | the {nouns}, each of them | all of those {nouns} | as many {nouns} as there are | the {nouns}
these {nouns}, all | every last {noun} | all of my {nouns} | the {nouns} here | my {nouns} | any {nouns} there are
    """),
    several_color=listed("""
all the {color} objects | all the {color} objects | all {color} things | all the {color} things | every {color} object
each {color} thing | everything {color} | everything that is {color} | all of the {color} items | all that is {color}
{color} things, all | all {color} objects | all things that are {color} | all objects of {color} color
all things in {color} | each object that is {color} | every thing that is {color} | the {color} things, all of them
every one of the {color} objects | all the {color} ones | all {color} items here | each and every {color} thing
everything in {color} | the {color} objects | everything that looks {color} | the objects that are {color}
all objects in the color {color} | each of the {color} things | every object whose color is {color}
all these {color} things | the whole set of {color} objects | any {color} things there are
    """),
    negation=listed("""
the {noun} that is not {color} | the {noun} that is not {color} | the {noun} which is not {color}
the {noun} that isn't {color} | the not {color} {noun} | the {noun}, not the {color} one
a {noun} that is not {color} | the {noun} other than the {color} one | the {noun} that has a color other than {color}
any {noun} except the {color} one | the {noun} of any color but {color} | a {noun} but not a {color} one
the {noun} whose color is not {color} | the {noun} which isn't {color} | the {noun} that does not look {color}
a {noun} in another color than {color} | the {noun}, but not {color} | a {noun}, only not a {color} one
the {noun} which is of any other color than {color} | the {noun} that is everything but {color}
a {noun} as long as it is not {color} | the {noun} unless it is {color} | the {noun} excluding the {color} one
no {color} {noun}, the other one | the {noun} different from the {color} one | never the {color} {noun}, the other one
the non-{color} {noun} | not the {color} one, the other {noun} | the {noun} that ain't {color}
the {noun} that doesn't look {color} | instead of the {color} {noun} the other one
the {noun}, and not the {color} one | the {noun} that is not in {color} | the {noun} not painted {color}
the {noun} without {color} paint | any {noun} that is not {color} | no {color} one, the other {noun}
    """),
    questions={c: listed(some) + _crossed(_ASKING, _DOES[c]) for c, some in _QUESTIONS.items()},
    things={c: listed(some) * 3 + _crossed(_MEANING, _DOES[c]) for c, some in _THINGS.items()},
)
