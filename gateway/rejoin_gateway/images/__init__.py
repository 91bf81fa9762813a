"""Images of messages: whether they are complete, at a bounded cost.

image_cost    what decoding an image takes, read from its headers. Pure
image_pool    processes that decode, with limits of memory and time
decoder       what runs in such a process
"""
