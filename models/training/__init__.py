"""All that a training needs beside network and data."""
