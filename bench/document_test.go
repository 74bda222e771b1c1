package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestDocumentOfNothing(t *testing.T) {
	text, err := document(map[string]*record{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Benchmarks", notMeasured, "## A storm of binds"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in it", want)
		}
	}
	if strings.Contains(text, "{{") {
		t.Error("a template is left in it")
	}
}

// The texts ask for tables by name: a name that a part does not have would be found when all has been measured.
func TestDocumentOfParts(t *testing.T) {
	turns := [][]death{{{Kill: 1, ExitEvent: 2, Gone: 3, Removal: 1}}}
	took := []float64{1, 2, 3}
	all := burst{Kill: 1, Killed: 2, Gone: 3}
	m := &many{plan: plan{watched: []int{1}, inBurst: 1}, bursts: []pair{{byWatch, all, all}}}
	for _, by := range []contender{byWatch, byClient, byStrangers} {
		m.deaths = append(m.deaths, rounds{by, 1, turns, turns})
	}
	s := &startups{ready: took, run: starts{[]started{{1, 1}}, []started{{2, 2}}, []started{{3, 3}}}}
	for range startHelp + 1 {
		s.commands = append(s.commands, &startup{took: took})
	}
	w := &sweeps{}
	once := make([][]swept, sweptByFind+1)
	for i := range once {
		w.sweepers, w.deleted = append(w.sweepers, sweeper{name: "`one`"}), append(w.deleted, deleted{})
		once[i] = []swept{{took: 1, cpu: 1}}
	}
	for _, name := range []string{"sweep", "sweep-tmpfs"} {
		w.turns = append(w.turns, sweepTurns{workload{dead: 1, place: place{picture: name}}, once})
	}
	tracer := tracerTurns{tracer: tracer{tells: " "}, starts: took}
	for i := range loopKinds {
		tracer.loops[i] = beside{[][]float64{took}, [][]float64{took}}
		tracer.works[i] = []work{{}}
	}
	records := map[string]*record{
		"peers":  (&peerDeaths{peers: []peer{{name: "floor"}}, turns: [][][]float64{{took}}}).record(),
		"many":   m.record(),
		"sweep":  w.record(),
		"starts": s.record(),
		"daemon": (&through{
			deaths:     []throughRounds{{1, [][][]death{turns, turns}}},
			registered: []registering{{0, 1, 1}, {1, 1, 1}, {connections, 1, 1}},
		}).record(),
		"trace": (&tracing{tracers: []tracerTurns{tracer}}).record(),
	}
	text, err := document(records)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range records {
		for _, table := range r.Tables {
			if !strings.Contains(text, table.markdown()) {
				t.Errorf("the table %q of %s is not in the document", table.Name, name)
			}
		}
		for _, p := range r.Pictures {
			if !strings.Contains(text, "pictures/"+p.Name+".svg") {
				t.Errorf("the picture %q of %s is not in the document", p.Name, name)
			}
		}
	}
}

func TestDocumentOfResults(t *testing.T) {
	dir := t.TempDir()
	r := &record{
		Part: "peers", Machine: "a machine", Date: "2026-01-02", Command: "go run ./bench -part peers", Load: [2]string{"0.10", "0.20"},
		Tables:   []table{{Name: "gone", Columns: []string{"who", "p50"}, Rows: [][]string{{"a|b", "1.50 MISSED"}}}},
		Targets:  []target{atMost("this", 2, 1, ratio)},
		Pictures: []picture{{Name: "peers", Kind: sharesPicture, Series: []series{{Name: "a", X: []float64{1, 2}, Y: []float64{0, 1}}}}},
		LeftOut:  []string{"s6: not measured: apt-get install s6"},
	}
	if err := r.keep(dir); err != nil {
		t.Fatal(err)
	}
	back, err := kept(dir, "peers")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, r) {
		t.Errorf("%+v came back as %+v", r, back)
	}
	if err := writeDocument(dir, dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| who | p50 |\n| --- | --- |\n| a\\|b | **1.50** missed |\n", "| this | **2.00** missed | 1.00 |", "Measured on 2026-01-02",
		"Left out: s6: not measured: apt-get install s6.", "](pictures/peers.svg)",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("there is no %q in it", want)
		}
	}
}

func TestCompactNumbers(t *testing.T) {
	in := "{\n\t\"x\": [\n\t\t1,\n\t\t2.5e-7\n\t],\n\t\"said\": \"Linux 6, 2 CPUs\"\n}"
	want := "{\n\t\"x\": [1,2.5e-7],\n\t\"said\": \"Linux 6, 2 CPUs\"\n}"
	if got := string(compactNumbers([]byte(in))); got != want {
		t.Errorf("%s", got)
	}
}
