"""The metadata vocabulary that controller and brokers share: records, images, topic settings. Pure."""
