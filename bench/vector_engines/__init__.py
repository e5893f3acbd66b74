"""Compare embedded vector engines on what Ragline asks of its default one.

Why: the choice in docs/adr/0002 rests on these figures, and anyone may want to take them again on their machine.

    pip install numpy psutil qdrant-edge-py lancedb zvec usearch faiss-cpu
    python -m bench.vector_engines --data FOLDER [--rows 100000] [--engines zvec,lancedb] [--json OUT]

FOLDER holds `vectors.npy` (float32 [n, dim], unit length, n >= rows + 500: the last 500 of a fixed shuffle are the
queries) and `sentences.jsonl` (one `{"document": str, "text": str}` per vector). Random vectors will not do: they are
harder for a graph index than any text.

Every engine does the same work behind `Engine`. FAISS and usearch store vectors only, so they get the sidecar one would
have to write: SQLite holds payload, groups and vectors and is all that must survive a crash; the index lives in memory.
Each phase runs in a process of its own, so that memory, opening time and kills belong to one engine.
cpu_ms is what the whole process spent on one call, over all its threads: on a machine that others use it is the figure
to compare. Units: _ms milliseconds, _mb 2^20 bytes, _s seconds; ratios are against the same engine at rest in the same process.

Read `engine.py` for what is asked, one file of `engines/` for how a vendor answers, `phases.py` for what is measured.
"""
