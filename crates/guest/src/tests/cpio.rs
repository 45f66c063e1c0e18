use crate::cpio::Archive;
use crate::initramfs::modules_cpio;
use crate::modules::Module;
use crate::{MODULES_LIST, agent_cpio};

/// An entry as the kernel's unpacker reads it.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    inode: u32,
    mode: u32,
    device: (u32, u32),
    data: Vec<u8>,
}

/// Reads archives behind one another.
fn read(mut bytes: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let total = bytes.len();
    while !bytes.is_empty() {
        if bytes[0] == 0 {
            bytes = &bytes[4..];
            continue;
        }
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!((total - bytes.len()) % 4, 0);
        let field =
            |n: usize| u32::from_str_radix(std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap(), 16).unwrap();
        assert_eq!((field(2), field(3), field(5)), (0, 0, 0), "owner, group and time");
        let (name_length, size) = (field(11) as usize, field(6) as usize);
        let data_at = (110 + name_length).next_multiple_of(4);
        let name = String::from_utf8(bytes[110..109 + name_length].to_vec()).unwrap();
        if name != "TRAILER!!!" {
            let data = bytes[data_at..data_at + size].to_vec();
            entries.push(Entry { name, inode: field(0), mode: field(1), device: (field(9), field(10)), data });
        }
        bytes = &bytes[(data_at + size).next_multiple_of(4)..];
    }
    entries
}

fn modules() -> Vec<Module> {
    ["virtio", "erofs", "a_late_one"].map(|name| Module { name: name.to_owned(), bytes: name.into() }).into()
}

#[test]
fn modules_lie_where_their_list_says() {
    let entries = read(&modules_cpio(&modules()));
    let list = entries.iter().find(|e| format!("/{}", e.name) == MODULES_LIST).unwrap();
    let paths = "/moat/lib/virtio.ko\n/moat/lib/erofs.ko\n/moat/lib/a_late_one.ko\n";
    assert_eq!(String::from_utf8_lossy(&list.data), paths);
    for path in paths.lines() {
        assert!(entries.iter().any(|e| format!("/{}", e.name) == path && e.mode == 0o100_644), "{path}");
    }
}

#[test]
fn what_a_kernel_wants_is_there_and_sorted() {
    let entries = read(&modules_cpio(&modules()));
    let console = entries.iter().find(|e| e.name == "dev/console").unwrap();
    assert_eq!((console.mode, console.device), (0o020_600, (5, 1)));
    for dir in ["dev", "proc", "sys", "moat", "moat/lib"] {
        assert_eq!(entries.iter().find(|e| e.name == dir).unwrap().mode, 0o040_755);
    }
    assert!(entries.is_sorted_by(|a, b| a.name < b.name && a.inode < b.inode), "{entries:?}");
}

#[test]
fn archives_follow_one_another() {
    let first = modules_cpio(&modules());
    assert_eq!(first.len() % 512, 0);
    let both = [first, agent_cpio(b"\x7fELF agent")].concat();
    let entries = read(&both);
    let init = entries.last().unwrap();
    assert_eq!((init.name.as_str(), init.mode, init.data.as_slice()), ("init", 0o100_755, &b"\x7fELF agent"[..]));
}

#[test]
fn no_data_is_cut_or_padded() {
    for length in 0..9 {
        let mut archive = Archive::default();
        archive.file("x", 0o600, &vec![7; length]);
        archive.directory("y", 0o700);
        let entries = read(&archive.finish());
        assert_eq!(entries[0].data, vec![7; length]);
        assert_eq!(entries[1].name, "y");
    }
}
