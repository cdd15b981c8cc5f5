"""Unit 7.3: attention, a look inside, quantisation, reasoning, time and memory."""
