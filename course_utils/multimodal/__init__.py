"""Unit 7.1: pictures, sounds and words in one model."""
