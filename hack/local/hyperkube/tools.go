//go:build tools

// This file only keeps kubectl's requirements in go.mod: it is built from this module where a machine has none.
package main

import _ "k8s.io/kubernetes/cmd/kubectl"
