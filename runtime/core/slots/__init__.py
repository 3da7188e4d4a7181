"""The rows of one static cache, each a conversation, and the steps over them."""
