#!/usr/bin/env bash
# Run inside the container when LocalStack is up.
set -euo pipefail
awslocal s3 mb s3://cloudray
awslocal sqs create-queue --queue-name cloudray
