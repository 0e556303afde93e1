"""The query API of IAM and STS, which ``aws iam``, ``aws sts``, Terraform and the SDKs speak, on the S3 port."""
