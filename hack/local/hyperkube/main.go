// Command hyperkube is every Kubernetes binary that AKS in a box runs, in one file.
//
// The first argument names the component; the rest is passed to it unchanged, so each one behaves exactly as its
// upstream binary does. One link of k8s.io/kubernetes is far quicker to build than six.
package main

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	kubeapiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	kubecontrollermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kubeproxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubescheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// component returns the upstream command for its name. Each is made only when asked for: their constructors register
// flags and feature gates globally and must not run side by side.
var components = map[string]func() *cobra.Command{
	"kube-apiserver":          func() *cobra.Command { return kubeapiserver.NewAPIServerCommand() },
	"kube-controller-manager": func() *cobra.Command { return kubecontrollermanager.NewControllerManagerCommand() },
	"kube-scheduler":          func() *cobra.Command { return kubescheduler.NewSchedulerCommand() },
	"kube-proxy":              func() *cobra.Command { return kubeproxy.NewProxyCommand() },
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
}

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	name := os.Args[1]
	os.Args = append([]string{name}, os.Args[2:]...)
	switch {
	case name == "etcd":
		etcdmain.Main(os.Args)
	case name == "device-plugin":
		runDevicePlugin(os.Args[1:])
	case components[name] != nil:
		os.Exit(cli.Run(components[name]()))
	default:
		usage()
	}
}

func usage() {
	names := []string{"etcd", "device-plugin"}
	for name := range components {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Fprintf(os.Stderr, "usage: hyperkube <component> [flags]\ncomponents: %s\n", strings.Join(names, ", "))
	os.Exit(2)
}
