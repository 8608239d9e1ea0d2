"""Files that the wheel places into other packages' folders; never imported from here."""
