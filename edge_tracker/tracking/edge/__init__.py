"""`method="edge"`: fewer identity switches at a fraction of the embeddings."""
