package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// devicePlugin advertises devices that do not exist, through the real device-plugin API, so that the kubelet,
// the scheduler and the controllers see GPUs arrive on a node just as late as on real hardware.
type devicePlugin struct {
	pluginapi.UnimplementedDevicePluginServer
	devices []*pluginapi.Device
	stop    <-chan struct{}
}

func (p *devicePlugin) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return &pluginapi.DevicePluginOptions{}, nil
}

func (p *devicePlugin) ListAndWatch(_ *pluginapi.Empty, stream pluginapi.DevicePlugin_ListAndWatchServer) error {
	if err := stream.Send(&pluginapi.ListAndWatchResponse{Devices: p.devices}); err != nil {
		return err
	}
	select {
	case <-p.stop:
	case <-stream.Context().Done():
	}
	return nil
}

func (p *devicePlugin) Allocate(_ context.Context, request *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	response := &pluginapi.AllocateResponse{}
	for range request.ContainerRequests {
		response.ContainerResponses = append(response.ContainerResponses, &pluginapi.ContainerAllocateResponse{})
	}
	return response, nil
}

func runDevicePlugin(args []string) {
	flags := flag.NewFlagSet("device-plugin", flag.ExitOnError)
	directory := flags.String("directory", pluginapi.DevicePluginPath, "the kubelet's device-plugin folder")
	resource := flags.String("resource", "nvidia.com/gpu", "extended resource to advertise")
	count := flags.Int("count", 1, "number of healthy devices")
	flags.Parse(args)

	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	plugin := &devicePlugin{stop: ctx.Done()}
	for i := range *count {
		plugin.devices = append(plugin.devices, &pluginapi.Device{ID: fmt.Sprintf("gpu-%d", i), Health: pluginapi.Healthy})
	}
	endpoint := strings.NewReplacer("/", "-", ".", "-").Replace(*resource) + ".sock"
	socket := filepath.Join(*directory, endpoint)
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(server, plugin)
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	go register(ctx, filepath.Join(*directory, "kubelet.sock"), endpoint, *resource)
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}

// register tells the kubelet about this plugin, again and again until the kubelet is up to hear it.
func register(ctx context.Context, kubelet, endpoint, resource string) {
	connection, err := grpc.NewClient("unix://"+kubelet, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	request := &pluginapi.RegisterRequest{Version: pluginapi.Version, Endpoint: endpoint, ResourceName: resource}
	for ctx.Err() == nil {
		if _, err = pluginapi.NewRegistrationClient(connection).Register(ctx, request); err == nil {
			log.Printf("registered %s", resource)
			return
		}
		log.Printf("kubelet is not up yet: %v", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}
