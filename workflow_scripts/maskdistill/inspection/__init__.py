"""What a file of this workflow is, how it was made, and what it holds, as text."""
