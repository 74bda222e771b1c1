package reap

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// view is what the probe can be believed to see in a directory.
//
// A socket is found by the inode that it was bound through. Where one file has several inodes, one for each way that
// leads to it, the probe sees the sockets of its own way only: the layers of an overlay and what is merged from them,
// or the same network filesystem on two machines. Through the other ways a live sock-file looks dead.
type view struct {
	at      time.Time
	network bool  // what is here may be bound in another kernel
	layer   bool  // what is here may be bound through an overlay
	doubt   error // why the one or the other is only feared
}

// viewAge is how long a view is believed: an overlay can be mounted at any time.
const viewAge = time.Second

// view looks at the directory, unless that was done just now.
func (d *dir) view() *view {
	if v := d.seen.Load(); v != nil && time.Since(v.at) < viewAge {
		return v
	}
	v := &view{at: time.Now()}
	kind, err := sys.FilesystemType(d.fd)
	if v.network, v.doubt = err != nil || isNetworkFS(kind), err; !v.network {
		v.layer, v.doubt = knownLayers().include(d)
	}
	if v.doubt == nil { // what is missing may be there the next time
		d.seen.Store(v)
	}
	return v
}

// blind says why a dead answer cannot be believed here, or ReasonNone. Force believes it of what may be a layer of an
// overlay.
func (v *view) blind(force bool) Reason {
	switch {
	case v.network:
		return ReasonNetworkFS
	case v.layer && !force:
		return ReasonOverlayLayer
	default:
		return ReasonNone
	}
}

// onNetworkFS tells whether other kernels may have sockets bound on the filesystem. One that does not answer is taken
// for such.
func onNetworkFS(fd int) bool {
	kind, err := sys.FilesystemType(fd)
	return err != nil || isNetworkFS(kind)
}

func isNetworkFS(kind int64) bool { return networkFS[uint32(kind)] }

// networkFS holds the types of statfs(2) of filesystems that more than one kernel can have mounted, and of FUSE, which can
// show anything. Shared folders of virtual machines are among them; virtiofs says that it is FUSE.
var networkFS = map[uint32]bool{
	unix.AFS_FS_MAGIC:      true, // kAFS
	unix.AFS_SUPER_MAGIC:   true,
	unix.CEPH_SUPER_MAGIC:  true,
	unix.CIFS_SUPER_MAGIC:  true,
	unix.CODA_SUPER_MAGIC:  true,
	unix.FUSE_SUPER_MAGIC:  true,
	unix.NCP_SUPER_MAGIC:   true,
	unix.NFS_SUPER_MAGIC:   true,
	unix.OCFS2_SUPER_MAGIC: true,
	unix.SMB2_SUPER_MAGIC:  true,
	unix.SMB_SUPER_MAGIC:   true,
	unix.V9FS_MAGIC:        true,
	0x01161970:             true, // GFS2
	0x0bd00bd0:             true, // Lustre
	0x013111a8:             true, // IBRIX
	0x19830326:             true, // BeeGFS
	0x20030528:             true, // OrangeFS
	0x47504653:             true, // GPFS
	0x61636673:             true, // ACFS
	0x786f4256:             true, // vboxsf
	0x7c7c6673:             true, // prl_fs
	0xa501fcf5:             true, // VxFS
	0xaad7aaea:             true, // PanFS
	0xbacbacbc:             true, // vmhgfs
	0xbeefdead:             true, // SNFS
}
