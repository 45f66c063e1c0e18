//! From a machine to a command line. Pure.
//!
//! Everything QEMU works on comes open, as a descriptor: it can name no file of the host. The command line of the guest's
//! kernel holds nothing that is anybody's: it is the same for every machine.

use moat_agent::protocol::machine::SERVED_TAG;

use super::accelerator::Accelerator;

/// Where the kernel is shown in the jail.
pub(super) const KERNEL: &str = "/boot/vmlinux";
/// Where the initramfs is.
pub(super) const INITRAMFS: &str = "/boot/initramfs";
/// Descriptor of the socket it is told things over.
const CONTROL_FD: u32 = 3;
/// Descriptor of the agent's.
const AGENT_FD: u32 = 4;
/// First descriptor of a disk.
const DISKS_FD: u32 = 5;
/// Name of the console's memory; kept in QEMU, so that a guest which floods its console costs this much and no more.
pub(super) const CONSOLE: &str = "console";
/// Its size: a power of two, and a screen or twenty of a kernel's last words.
pub(super) const CONSOLE_LEN: u32 = 64 << 10;
/// Name of the node of the disk that is written to.
const TRANSLATION_MIB: u32 = 64;

/// What decides the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub accelerator: Accelerator,
    pub memory_bytes: u64,
    pub vcpus: u32,
    /// Read-only disks before the one that is written to.
    pub layers: u32,
    /// There is a disk that is written to.
    pub disk: bool,
    /// Its root is served by somebody, over the descriptor after those of disks.
    pub served: bool,
    /// Hardware address of its link, if it has one.
    pub mac: Option<[u8; 6]>,
    /// It goes on from where one was kept: it waits to be told where that is.
    pub incoming: bool,
}

impl Shape {
    /// Descriptors from 3 on, without the tap.
    pub fn descriptors(&self) -> u32 {
        2 + self.layers + u32::from(self.disk) + u32::from(self.served)
    }

    /// What QEMU calls the machine.
    pub fn machine(&self) -> &'static str {
        match self.accelerator {
            Accelerator::Kvm => "microvm,acpi=on,pit=off,pic=off,rtc=on,auto-kernel-cmdline=off",
            Accelerator::Tcg => "q35,hpet=off,sata=off,smbus=off,vmport=off",
        }
    }

    /// Which processor it shows.
    pub fn cpu(&self) -> &'static str {
        match self.accelerator {
            Accelerator::Kvm => "host",
            Accelerator::Tcg => "max",
        }
    }

    /// Everything after the program's name.
    pub fn arguments(&self) -> Vec<String> {
        let mut all = Words::default();
        all.push("-nodefaults -no-user-config -no-reboot -display none -monitor none");
        all.push("-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        if self.served {
            // Whoever serves it reads and writes the machine's memory itself.
            all.pair("-object", format!("memory-backend-memfd,id=memory,size={}M,share=on", self.memory_bytes >> 20));
            all.pair("-machine", format!("{},memory-backend=memory", self.machine()));
        } else {
            all.pair("-machine", self.machine());
        }
        match self.accelerator {
            Accelerator::Kvm => all.pair("-accel", "kvm"),
            // Its buffer of translated code would otherwise be a gigabyte, which counts against the machine's cgroup.
            Accelerator::Tcg => all.pair("-accel", format!("tcg,thread=multi,tb-size={TRANSLATION_MIB}")),
        }
        all.pair("-cpu", self.cpu());
        all.pair("-smp", self.vcpus.to_string());
        all.pair("-m", format!("{}M", self.memory_bytes >> 20));
        all.pair("-kernel", KERNEL);
        all.pair("-initrd", INITRAMFS);
        all.pair("-append", self.kernel_line());
        all.pair("-chardev", format!("socket,id=control,fd={CONTROL_FD},server=on,wait=off"));
        all.pair("-mon", "chardev=control,mode=control");
        all.pair("-chardev", format!("ringbuf,id={CONSOLE},size={CONSOLE_LEN}"));
        all.pair("-serial", format!("chardev:{CONSOLE}"));
        all.pair("-chardev", format!("socket,id=agent,fd={AGENT_FD},server=on,wait=off"));
        all.pair("-device", format!("{},max_ports=2", self.device("virtio-serial")));
        all.pair("-device", "virtserialport,chardev=agent,name=moat.agent,nr=1");
        all.pair("-object", "rng-builtin,id=rng");
        all.pair("-device", format!("{},rng=rng", self.device("virtio-rng")));
        self.disks(&mut all);
        self.files(&mut all);
        self.link(&mut all);
        if self.incoming {
            all.push("-S -incoming defer");
        }
        all.0
    }

    fn disks(&self, all: &mut Words) {
        let count = self.layers + u32::from(self.disk);
        for index in 0..count {
            let (fd, read_only) = (DISKS_FD + index, index < self.layers);
            let (ro, opaque) = if read_only { ("on", "layer") } else { ("off", "disk") };
            all.pair("-add-fd", format!("fd={fd},set={fd},opaque={opaque}"));
            let file = format!("driver=file,filename=/dev/fdset/{fd},locking=off,aio=threads");
            // Nothing is promised beyond the machine's life, and keeping one syncs the file: flushes need not reach the disk.
            let cache = "cache.direct=off,cache.no-flush=on";
            all.pair(
                "-blockdev",
                format!("{file},node-name=disk{index},read-only={ro},auto-read-only=off,{cache},discard=unmap"),
            );
            all.pair("-device", format!("{},drive=disk{index},serial={opaque}{index}", self.device("virtio-blk")));
        }
    }

    fn files(&self, all: &mut Words) {
        if !self.served {
            return;
        }
        let fd = DISKS_FD + self.layers + u32::from(self.disk);
        all.pair("-chardev", format!("socket,id=files,fd={fd}"));
        all.pair("-device", format!("{},chardev=files,tag={SERVED_TAG}", self.device("vhost-user-fs")));
    }

    fn link(&self, all: &mut Words) {
        let Some(mac) = self.mac else { return };
        let fd = CONTROL_FD + self.descriptors();
        all.pair("-netdev", format!("tap,id=link,fd={fd}"));
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        // There is no firmware that would boot from it.
        let rom = if self.accelerator == Accelerator::Tcg { ",romfile=" } else { "" };
        all.pair("-device", format!("{},netdev=link,mac={mac}{rom}", self.device("virtio-net")));
    }

    fn device(&self, kind: &str) -> String {
        match self.accelerator {
            Accelerator::Kvm => format!("{kind}-device"),
            Accelerator::Tcg => format!("{kind}-pci"),
        }
    }

    fn kernel_line(&self) -> String {
        let common = "console=ttyS0 quiet moat.ready random.trust_cpu=on panic=-1";
        match self.accelerator {
            Accelerator::Kvm => common.to_owned(),
            // What is emulated has none of the faults that would be mitigated, and its timers are too rough to calibrate by.
            // On a busy host a timer's interrupt comes later than the kernel's check of it waits, and the kernel panics:
            // "IO-APIC + timer doesn't work".
            Accelerator::Tcg => format!("{common} lpj=4000000 no_timer_check mitigations=off"),
        }
    }
}

#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn push(&mut self, words: &str) {
        self.0.extend(words.split(' ').map(str::to_owned));
    }

    fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.0.extend([name.to_owned(), value.into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape {
            accelerator: Accelerator::Tcg,
            memory_bytes: 256 << 20,
            vcpus: 2,
            layers: 2,
            disk: true,
            served: false,
            mac: Some([2, 0, 0, 0xab, 0, 1]),
            incoming: false,
        }
    }

    fn text(shape: &Shape) -> String {
        shape.arguments().join(" ")
    }

    #[test]
    fn layers_come_first_then_the_disk_then_the_link() {
        let text = text(&shape());
        for part in [
            "-machine q35,hpet=off,sata=off,smbus=off,vmport=off -accel tcg,thread=multi,tb-size=64 -cpu max -smp 2 -m 256M ",
            "-add-fd fd=5,set=5,opaque=layer -blockdev driver=file,filename=/dev/fdset/5,",
            "node-name=disk0,read-only=on,",
            "-add-fd fd=7,set=7,opaque=disk -blockdev driver=file,filename=/dev/fdset/7,",
            "node-name=disk2,read-only=off,",
            "-netdev tap,id=link,fd=8 -device virtio-net-pci,netdev=link,mac=02:00:00:ab:00:01,romfile=",
            "-device virtserialport,chardev=agent,name=moat.agent,nr=1",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(shape().descriptors(), 5);
        assert!(!text.contains("incoming"));
    }

    #[test]
    fn with_kvm_it_is_the_small_machine() {
        let text = text(&Shape { accelerator: Accelerator::Kvm, mac: None, incoming: true, ..shape() });
        for part in
            ["-machine microvm,", "-accel kvm -cpu host ", "virtio-blk-device,drive=disk0", "-S -incoming defer"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("-pci") && !text.contains("netdev") && !text.contains("mitigations"), "{text}");
    }

    #[test]
    fn who_serves_its_files_shares_its_memory_and_is_one_more_descriptor() {
        let served = Shape { layers: 0, served: true, ..shape() };
        let text = text(&served);
        for part in [
            "-object memory-backend-memfd,id=memory,size=256M,share=on -machine q35,hpet=off,sata=off,smbus=off,vmport=off,memory-backend=memory ",
            "-chardev socket,id=files,fd=6 -device vhost-user-fs-pci,chardev=files,tag=moat.root ",
            "-netdev tap,id=link,fd=7 ",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(served.descriptors(), 4);
    }

    /// Whatever a spec says, nothing of it becomes an argument but numbers and an address.
    #[test]
    fn what_it_is_told_is_the_same_for_every_machine() {
        let alone = Shape { layers: 0, mac: None, ..shape() };
        let line = text(&alone);
        assert!(line.contains(
            "-append console=ttyS0 quiet moat.ready random.trust_cpu=on panic=-1 lpj=4000000 no_timer_check mitigations=off"
        ));
        assert!(line.contains("-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"));
        assert_eq!(alone.descriptors(), 3);
    }
}
