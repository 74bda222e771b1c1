package pidfd

import (
	"os"
	"testing"
)

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		p, err := Open(os.Getpid())
		if err != nil {
			b.Fatal(err)
		}
		p.Close()
	}
}

func BenchmarkOpenIdentity(b *testing.B) {
	for b.Loop() {
		p, err := Open(os.Getpid())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Identity(); err != nil {
			b.Fatal(err)
		}
		p.Close()
	}
}

func BenchmarkIdentityOpen(b *testing.B) {
	id, err := open(b, os.Getpid()).Identity()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		p, err := id.Open()
		if err != nil {
			b.Fatal(err)
		}
		p.Close()
	}
}

func BenchmarkExited(b *testing.B) {
	p := open(b, os.Getpid())
	for b.Loop() {
		if _, err := p.Exited(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPID(b *testing.B) {
	p := open(b, os.Getpid())
	for b.Loop() {
		if p.PID() < 0 {
			b.Fatal("no pid")
		}
	}
}

func BenchmarkInfo(b *testing.B) {
	p := open(b, os.Getpid())
	for b.Loop() {
		if _, err := p.Info(); err != nil {
			b.Fatal(err)
		}
	}
}
