"""Where `hayhooks run --pipelines-dir` finds the pipeline `search`."""

from bench.frameworks.haystack_server import PipelineWrapper

__all__ = ["PipelineWrapper"]
