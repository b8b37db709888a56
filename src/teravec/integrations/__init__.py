"""Which tools take teravec as a part? Each module needs the tool that it is for."""
