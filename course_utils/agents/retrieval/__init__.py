"""Looking things up in texts: documents, chunks, keywords, vectors, stores, ranking, and a chatbot that reads."""
