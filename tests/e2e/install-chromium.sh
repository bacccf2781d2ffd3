#!/usr/bin/env bash
# Make sure a Chromium is there for the browser tests: as root on Debian by apt, else say what to do.
# Never fails by itself: the tests skip with their reason, and CI turns a skip into a failure.
set -u
command -v chromium >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "Installing Chromium and Chinese fonts by apt ..."
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk >/dev/null && exit 0
fi
echo "No chromium found: browser tests will be skipped. Install it with your system's package manager." >&2
exit 0
