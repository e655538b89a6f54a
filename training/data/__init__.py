"""Raw chats -> clean lists of messages."""
