//! A file system of its own whose power can be cut: ext4 in a file on a tmpfs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Mounted until it is dropped.
pub(crate) struct Image {
    /// A tmpfs, which holds the image and the place where that is mounted.
    base: PathBuf,
}

/// What `FS_IOC_SHUTDOWN` is called with: the file system stops, and what is not in its journal is lost.
const SHUTDOWN: &str =
    "my $flags = pack('L', 2); sysopen(FS, $ARGV[0], 0) or die $!; ioctl(FS, 0x8004587d, $flags) or die $!";

/// Whether the program ran and said that all is well.
fn runs(program: &str, arguments: &[&str], path: &Path) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).arg(path).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Image {
    /// `None` where it cannot be had: it takes root, a loop device, the ext4 tools and perl.
    pub(crate) fn mount(base: &Path) -> Option<Self> {
        if !runs("mount", &["-t", "tmpfs", "-o", "size=700m", "tmpfs"], base) {
            return None;
        }
        // From here on dropping cleans up.
        let image = Self { base: base.to_path_buf() };
        fs::create_dir(image.root()).unwrap();
        fs::File::create(image.file()).unwrap().set_len(600 << 20).unwrap();
        let made = runs("mkfs.ext4", &["-q", "-F"], &image.file()) && image.attach();
        (made && runs("perl", &["-e", "exit 0"], base)).then_some(image)
    }

    /// Where its files are.
    pub(crate) fn root(&self) -> PathBuf {
        self.base.join("mounted")
    }

    fn file(&self) -> PathBuf {
        self.base.join("image")
    }

    fn attach(&self) -> bool {
        Command::new("mount")
            .args(["-o", "loop"])
            .args([self.file(), self.root()])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// From here on nothing reaches the disk. Who may still be in a sync must have been stopped before: it could be told success.
    pub(crate) fn cut(&self) {
        assert!(runs("perl", &["-e", SHUTDOWN], &self.root()), "the file system was not shut down");
    }

    /// What a machine does that gets its power back. Nothing has a file open.
    pub(crate) fn come_back(&self) {
        assert!(runs("umount", &[], &self.root()), "the file system is in use");
        assert!(self.attach(), "the file system did not come back");
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        runs("umount", &["-q", "-l"], &self.root());
        runs("umount", &["-l"], &self.base);
    }
}
