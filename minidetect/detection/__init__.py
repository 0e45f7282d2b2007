"""The field's vocabulary: boxes, box coder, matcher, sampler, losses, image pyramid."""
