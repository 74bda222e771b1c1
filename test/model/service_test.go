package model

// service is who removes.
type service interface {
	// notify is the address to which processes report.
	notify() string
	// up tells whether it takes orders.
	up() bool
	// revive has it do so.
	revive()
	// watch registers a process, with what it holds now where that is so by itself; it tells whether it is.
	watch(p *process, paths, spaces []string) (held bool)
	// takesSpaces tells whether it takes bindspaces of a process.
	takesSpaces(p *process) bool
	// claim claims one more name for a process.
	claim(p *process, path string)
	// snapshot claims what a process holds now.
	snapshot(p *process)
	// known tells whether a file is claimed, and stays so whatever happens to the service.
	known(f *file) bool
	// keepsReports tells whether what a process has reported is claimed, though nobody may have looked at it.
	keepsReports() bool
	// await waits until it is done; false is that it waited in vain.
	await(done func() bool) bool
	// settled waits until what is claimed for a dead process was tried.
	settled(p *process)
	// troubles are what it has complained of.
	troubles() []string
	describe() string
	// stop is its end when all has gone well.
	stop() error
	close()
}
