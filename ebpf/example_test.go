package ebpf_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/sockwatch/sockwatch/ebpf"
)

// Every bind from now on, and what was bound before. Whatever happens between Open and Scan is in both.
func Example() {
	tracer, err := ebpf.Open(ebpf.Options{})
	if err != nil {
		log.Fatal(err) // names what is missing
	}
	defer tracer.Close()
	for _, refusal := range tracer.Refusals() {
		log.Print(refusal)
	}

	scan := func() {
		sockets, err := ebpf.Scan()
		if err != nil {
			log.Print(err) // some namespaces could not be seen
		}
		for _, s := range sockets {
			fmt.Println("socket", s.Inode, "is bound to", s.RawPath)
		}
	}
	scan()
	for {
		event, err := tracer.Read()
		switch {
		case errors.Is(err, ebpf.ErrDropped):
			scan()
		case err != nil:
			return // os.ErrClosed: somebody called Close
		case event.Kind == ebpf.KindBound:
			fmt.Println(event.Owner, event.Comm, "bound socket", event.Socket, "to", event.Path)
		case event.Kind == ebpf.KindClosed:
			fmt.Println(event.Owner, "had socket", event.Socket, "and it is closed")
		}
	}
}
