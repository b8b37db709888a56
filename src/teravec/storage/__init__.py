"""Files, checksums and sealed formats: how bytes become durable and how damage is found."""
