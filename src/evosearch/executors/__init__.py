"""Where micro-batches are computed: in this process, in others on this machine, or on a Ray cluster.

The search itself goes on in one process. It sends states out and gets states, digests and scores back, never decoded
videos. A micro-batch has one shape wherever it is computed, and its noise is keyed, so that the bits are the same.

`worker` does the work, `pool` hands it out, `processes` and `rays` hire those who do it, `remote` is what a search is
handed in place of a model that is elsewhere.
"""
