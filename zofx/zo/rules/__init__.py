"""Update rules: on coefficients of rays, and on gradients of tensors."""
