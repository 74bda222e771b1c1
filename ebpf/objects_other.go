//go:build !amd64 && !arm64 && !386

package ebpf

import (
	"errors"
	"fmt"
	"runtime"

	cilium "github.com/cilium/ebpf"
)

var errArchitecture = fmt.Errorf("%w: there are programs for amd64 and arm64, and none for %s", errors.ErrUnsupported, runtime.GOARCH)

func loadFexit() (*cilium.CollectionSpec, error)      { return nil, errArchitecture }
func loadTracepoint() (*cilium.CollectionSpec, error) { return nil, errArchitecture }
func loadSysexit() (*cilium.CollectionSpec, error)    { return nil, errArchitecture }
