"""All of `params.yaml`, checked, and resolved into what each stage depends on."""
