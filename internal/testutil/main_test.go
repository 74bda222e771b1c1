package testutil

import (
	"bufio"
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	Main(m, Helpers{
		"echo": echo,
		"leak": leak,
	})
}

// echo says "ready" and then its arguments and its input, line by line.
func echo() {
	fmt.Println("ready")
	for _, arg := range os.Args[1:] {
		fmt.Println(arg)
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(in.Text())
	}
}

// leak is a whole test binary whose tests leave behind what its argument says.
func leak() {
	Main(leaking(os.Args[1]))
}

type leaking string

func (what leaking) Run() int {
	switch what {
	case "descriptor":
		if _, _, err := os.Pipe(); err != nil {
			panic(err)
		}
	case "closed":
		os.Stdin.Close()
	case "goroutine":
		go func() { select {} }()
	case "child":
		if _, err := exitingChild(nil); err != nil {
			panic(err)
		}
	case "failure":
		return 7
	}
	return 0
}
