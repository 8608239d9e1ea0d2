"""What other libraries do not offer in public (BUILD.md, "Private interfaces")."""
