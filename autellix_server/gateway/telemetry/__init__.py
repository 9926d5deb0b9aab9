"""What the gateway tells about itself: metrics, spans, logs and timelines, all of them listeners of `events`."""
