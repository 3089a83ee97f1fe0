#!/bin/sh
# Options alone go to curl; anything else is a command of its own.
case "$1" in
    -*) exec curl "$@" ;;
    *) exec "$@" ;;
esac
