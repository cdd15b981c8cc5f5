"""Unit 7.5: teaching a language model something new, and knowing whether it worked."""
