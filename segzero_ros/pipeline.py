"""Public: the whole chain by one name. Chooses the model adapters; the steps are in `core/pipeline.py`."""

from __future__ import annotations

from segzero_ros.core.contract import Cancel, OnProgress, Reasoner
from segzero_ros.core.pipeline import Pipeline as CorePipeline
from segzero_ros.core.profiles import Profile
from segzero_ros.core.steps import NoReasoner
from segzero_ros.models.server_address import is_address


class Pipeline(CorePipeline):
    """See `core.pipeline.Pipeline`; this one can also load its models."""

    @classmethod
    def load(
        cls,
        profile: Profile,
        *,
        reasoner: str | None = None,
        reasoner_revision: str | None = None,
        adapter: str | None = None,
        segmenter: str | None = None,
        segmenter_revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        attention: str | None = None,
        offline: bool = False,
        words: bool = True,
        trial: bool = True,
        constrain: bool | None = None,
        on_progress: OnProgress | None = None,
        cancel: Cancel | None = None,
    ) -> Pipeline:
        """Loads both models of a profile, or others by path or hub name, and tries them unless `trial` is False.

        reasoner: may be a server's URL; device, dtype and offline are then for the segmenter alone.
        constrain: whether answers are held to the profile's grammar; None: as the profile says.
        words: False loads no reasoner, for `segment_prompts` alone; an instruction is then refused with BAD_REQUEST.
        Raises SegzeroError with a sentence.
        """
        tell = on_progress or (lambda share, what: None)
        tell(0.0, "importing the model libraries")
        from segzero_ros.models.segmenter_transformers import load_segmenter
        from segzero_ros.models.trial import try_out, try_segmenter

        # The small one first: on shared memory it is the one that must not be left without room.
        small = load_segmenter(
            profile,
            segmenter,
            segmenter_revision,
            device=device,
            dtype=dtype,
            offline=offline,
            on_progress=lambda share, what: tell(0.1 + (0.2 if words else 0.7) * share, what),
            cancel=cancel,
        )
        if not words:
            if trial:
                try_segmenter(small, lambda share, what: tell(0.8 + 0.2 * share, what), cancel or Cancel())
            tell(1.0, "loaded")
            return cls(NoReasoner(), small, profile)
        large: Reasoner

        def tell_large(share: float, what: str) -> None:
            tell(0.3 + (0.5 if trial else 0.7) * share, what)

        if is_address(url := reasoner or profile.reasoner):
            from segzero_ros.models.reasoner_server import load_server_reasoner

            large = load_server_reasoner(
                profile,
                url,
                revision=reasoner_revision,
                adapter=adapter,
                constrain=constrain,
                on_progress=tell_large,
                cancel=cancel,
            )
        else:
            from segzero_ros.models.reasoner_transformers import load_reasoner

            large = load_reasoner(
                profile,
                reasoner,
                reasoner_revision,
                adapter=adapter,
                device=device,
                dtype=dtype,
                attention=attention,
                offline=offline,
                constrain=constrain,
                on_progress=tell_large,
                cancel=cancel,
            )
        if trial:
            try_out(large, small, profile, lambda share, what: tell(0.8 + 0.2 * share, what), cancel or Cancel())
        tell(1.0, "loaded")
        return cls(large, small, profile)
