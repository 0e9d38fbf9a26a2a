"""Classification of live traffic: a tap on a device, from attach to detach."""
