"""Groups, dispatch between workers, the control plane, and the store that S3 handlers see."""
