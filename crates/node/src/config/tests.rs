use super::*;

const ISSUER: &str = "ACT7Z5645VKTDVNMHBOMPPNBUTVX2AGWESFH7D55RW5535Z2EHJKAUQZ";

fn toml(text: &str) -> Result<NodeConfig, ConfigError> {
    NodeConfig::from_toml(text, "moat.toml")
}

fn refusal(text: &str) -> String {
    toml(text).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn an_empty_file_is_the_default() {
    let config = toml("").unwrap();
    assert_eq!(config.run_dir, PathBuf::from("/run/moat"));
    assert_eq!(config.isolation, Isolation::Container);
    assert!(config.sandboxed() && !config.unsafe_allowed());
    assert_eq!(config.deny_trigger_subjects, DENIED_ALWAYS);
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let message = refusal("nexus = 'a'\nrundir = '/x'\n");
    assert!(message.contains("line 2") && message.contains("rundir") && message.contains("run_dir"), "{message}");
    let message = refusal("[nats]\nserver = 'a'\n");
    assert!(message.contains("line 2") && message.contains("server"), "{message}");
}

#[test]
fn values_that_cannot_be_meant_name_their_key() {
    for (text, key) in [
        ("run_dir = 'relative'", "run_dir"),
        ("run_dir = '/a-path-of-57-bytes/which-is-one-more-than-there-is-roomy'", "run_dir"),
        ("drivers = ['xen']", "drivers"),
        ("isolation = 'process'", "isolation"),
        ("isolation = 'vm'", "isolation"),
        ("drivers = ['container']\nisolation = 'microvm'", "isolation"),
        ("drivers = ['qemu', 'process']\nisolation = 'none'", "isolation"),
        ("[guest]\ndir = 'x'", "guest.dir"),
        ("[guest]\nmemory = '8MiB'", "guest.memory"),
        ("[guest]\nvcpus = 0", "guest.vcpus"),
        ("[guest]\ndisk = 1", "guest.disk"),
        ("[guest]\nmachines_dir = '/a'\n[agent]\nsnapshot_dir = '/b'", "agent.snapshot_dir"),
        ("[qemu]\nprogram = 'bin/qemu'", "qemu.program"),
        ("[firecracker]\nprogram = '/a'\n[agent]\nfirecracker_bin = '/b'", "agent.firecracker_bin"),
        ("[firecracker]\nbin_path = ['opt']", "firecracker.bin_path"),
        ("[firecracker]\nkernel_filepath = '/a'\nkernel = '/b'", "firecracker.kernel"),
        ("[firecracker]\nrootfs_filepath = 'r'", "firecracker.rootfs_filepath"),
        ("[firecracker]\ncpu_template = 'T9'", "firecracker.cpu_template"),
        ("[firecracker]\nrate_limiters = { iops = { size = 0, refill_time = 1 } }", "firecracker.rate_limiters.iops"),
        (
            "[[pool.templates]]\nname = 'a'\nmin_ready = 1\nmax_ready = 1\nisolation = 'process'",
            "pool.templates[0].isolation",
        ),
        (
            "[[pool.templates]]\nname = 'host'\nmin_ready = 1\nmax_ready = 1\nisolation = 'microvm'",
            "pool.templates[0].isolation",
        ),
        ("workload_types = ['elf']", "workload_types"),
        ("workload_types = ['v8']", "workload_types"),
        ("valid_issuers = ['nobody']", "valid_issuers"),
        ("deny_trigger_subjects = ['a..b']", "deny_trigger_subjects"),
        ("metrics_listen = 'here'", "metrics_listen"),
        ("workload_nats = 'nohost'", "workload_nats"),
        ("uid_base = 1000", "uid_base"),
        ("uid_base = 200000", "container.disk_ids"),
        ("[container]\ndisk_ids = 4294967000", "container.disk_ids"),
        ("[tags]\n'nex.os' = 'plan9'", "tags.nex.os"),
        ("[nats]\nservers = []", "nats.servers"),
        ("[nats]\ncreds = '/a'\ntoken = 't'", "nats"),
        ("[restart]\ndelay_initial = '1ms'", "restart.delay_initial"),
        ("[logs]\nfiles_max = 1", "logs.files_max"),
        ("[api]\nlisten_addr = 'here'", "api.listen_addr"),
        ("[proxy]\nlisten = 'here'", "proxy.listen"),
        ("[proxy]\ndomain = 'a..b'", "proxy.domain"),
        ("[proxy]\ndomain = 'a.b:80'", "proxy.domain"),
        ("[proxy]\ndomain = '.example.com'", "proxy.domain"),
        ("[oci]\ncache_dir = 'x'", "oci.cache_dir"),
        ("[oci]\nparallel_layers = 0", "oci.parallel_layers"),
        ("[oci]\ninsecure_registries = ['http://a']", "oci.insecure_registries"),
        ("[pool]\nreplenish_interval_sec = 0", "pool.replenish_interval_sec"),
        ("[[pool.templates]]\nname = 'a/b'\nmin_ready = 1\nmax_ready = 1", "pool.templates[0].name"),
        ("[[pool.templates]]\nname = 'a'\nmin_ready = 2\nmax_ready = 1", "pool.templates[0].max_ready"),
        ("[[pool.templates]]\nname = 'a'\nmin_ready = 2\nmax_ready = 1001", "pool.templates"),
        ("[[pool.templates]]\nname = 'a'\nmin_ready = 1\nmax_ready = 1\nnetwork = 'host'", "pool.templates[0].network"),
        ("[network]\nname = 'Moat'", "network.name"),
        ("[network]\nsubnet = '10.0.0.0/30'", "network.subnet"),
        ("[network]\nsubnet = '10.0.0.1/16'", "network.subnet"),
        ("[network]\ngateway = '10.100.0.1'", "network.gateway"),
        ("[network]\nuplink = 'a'\nhost_iface = 'b'", "network.host_iface"),
        ("[network]\nallow = ['here']", "network.allow"),
        ("[network]\ndeny = ['::/0']", "network.deny"),
        ("[network]\nchoose_from = ['10.0.0.0']\nupstreams = ['a']", "network.upstreams"),
        ("[network]\ndomain = 'a..b'", "network.domain"),
        ("[network]\nslots_max = 0", "network.slots_max"),
        ("[network]\nready = 9\nslots_max = 8", "network.ready"),
        ("[network]\npublish_address = 'localhost'", "network.publish_address"),
        ("[network]\npublish_ports = '9-8'", "network.publish_ports"),
        ("[oci]\ndns_server = 'here'", "oci.dns_server"),
        ("[network]\nupstreams = ['192.0.2.1']\n[oci]\ndns_server = '192.0.2.2'", "oci.dns_server"),
        ("[jobs.artifact]\nnetworks_allowed = ['here']", "jobs.artifact.networks_allowed"),
        ("[jobs.artifact]\nnetworks_denied = ['10.0.0.0/33']", "jobs.artifact.networks_denied"),
        ("[jobs.artifact.hosts]\n'a:80' = '192.0.2.1'", "jobs.artifact.hosts.\"a:80\""),
        ("[jobs.artifact.hosts]\n'192.0.2.1' = '192.0.2.2'", "jobs.artifact.hosts.\"192.0.2.1\""),
        ("[jobs.artifact.hosts]\n'a.b' = 'c.d'", "jobs.artifact.hosts.\"a.b\""),
        ("[jobs.artifact]\nbuckets = ['a.b']", "jobs.artifact.buckets"),
        ("[jobs.artifact]\nbuckets = ['*', 'a']", "jobs.artifact.buckets"),
        ("[sandboxes]\ndefault_timeout_sec = 10\nmax_timeout_sec = 5", "sandboxes.default_timeout_sec"),
        ("name = 'a'\n[agent]\nnode_id = 'b'", "agent.node_id"),
        ("[[autostart]]\nname = 'a.b'\nlocation = 'nats://B/k'", "autostart[0].name"),
        ("[[autostart]]\nname = 'a'\nlocation = 'file:///k'", "autostart[0].location"),
    ] {
        let message = refusal(text);
        assert!(message.contains(&format!(": {key}: ")), "{text}: {message}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let config = toml("[nats]\nuser = 'u'\npassword = 'hunter2'").unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn nex_json_is_accepted_unchanged() {
    let text = format!(
        r#"{{"default_resource_dir":"/tmp/wd","machine_pool_size":2,"kernel_path":"/k","rootfs_filepath":"/r",
        "cni":{{"network_name":"fcnet","interface_name":"veth0","subnet":"192.168.127.0/24","nameservers":["192.0.2.53"]}},
        "internal_node_host":"192.168.127.1",
        "machine_template":{{"vcpu_count":2,"memsize_mib":512}},"tags":{{"simple":"true"}},"no_sandbox":true,
        "workload_types":["native","v8"],"valid_issuers":["{ISSUER}"],"deny_trigger_subjects":["orders.>"],
        "node_limits":{{"max_workloads":3,"max_workload_bytes":0,"max_total_bytes":1000}},
        "rate_limiters":{{"iops":{{"refill_time":100,"size":10}}}},"preserve_network":true,"something_new":1,
        "agent_handshake_timeout_ms":7000,
        "autostart":{{"workloads":[{{"name":"echo","namespace":"default","argv":["-v"],"description":"d","essential":true,
        "type":"native","location":"nats://B/echo","environment":{{"a":"b"}}}}]}}}}"#
    );
    let config = NodeConfig::from_nex_json(&text, "config.json").unwrap();
    assert_eq!(config.isolation, Isolation::Process);
    assert!(config.unsafe_allowed() && !config.sandboxed());
    assert_eq!(config.resources.memory_bytes, Some(512 << 20));
    assert_eq!(config.resources.cpu_quota_millis, Some(2000));
    assert_eq!(config.workload_types, ["native"]);
    assert_eq!(config.valid_issuers, [ISSUER]);
    assert_eq!(config.deny_trigger_subjects.last().map(String::as_str), Some("orders.>"));
    assert_eq!(config.limits, Limits { workloads_max: Some(3), artifact_bytes_max: None, total_bytes_max: Some(1000) });
    assert_eq!(config.agent_start_timeout, Some(Duration::from_secs(7)));
    assert_eq!(config.autostart[0].location, ("B".to_owned(), "echo".to_owned()));
    assert_eq!(config.autostart[0].environment["a"].reveal(), "b");
    for named in ["machine_pool_size", "cni.network_name", "cni.interface_name", "internal_node_host", "v8"] {
        assert!(config.notes.iter().any(|n| n.contains(named)), "{named}: {:?}", config.notes);
    }
    assert!(!config.notes.iter().any(|n| n.contains("preserve_network") || n.contains("something_new")));
    let machines = &config.machines;
    assert!(!machines.preferred, "without a sandbox there is no machine");
    assert_eq!(machines.firecracker.kernel_filepath, Some(PathBuf::from("/k")));
    assert_eq!(machines.firecracker.rootfs_filepath, Some(PathBuf::from("/r")));
    assert_eq!(machines.firecracker.resource_dir, Some(PathBuf::from("/tmp/wd")));
    let iops = machines::TokenBucket { one_time_burst: None, refill_time: 100, size: 10 };
    assert_eq!(machines.firecracker.rate_limiters, machines::RateLimiters { bandwidth: None, iops: Some(iops) });
    assert_eq!(config.network.wanted.subnet, Some("192.168.127.0/24".parse().unwrap()));
    assert_eq!(config.network.net.upstreams, ["192.0.2.53:53".parse().unwrap()]);
    let default = NodeConfig::from_nex_json("{}", "config.json").unwrap();
    assert_eq!(default.isolation, Isolation::Container);
    assert!(default.notes.is_empty());
}

#[test]
fn both_spellings_of_kernel_and_rootfs() {
    let read = |text: &str| NodeConfig::from_nex_json(text, "c").unwrap();
    for name in ["kernel_filepath", "kernel_path", "rootfs_filepath", "rootfs_path"] {
        let config = read(&format!(r#"{{"{name}":"/x"}}"#));
        let firecracker = &config.machines.firecracker;
        let given = if name.starts_with('k') { &firecracker.kernel_filepath } else { &firecracker.rootfs_filepath };
        assert_eq!((given, config.notes.len()), (&Some(PathBuf::from("/x")), 0));
        assert_eq!(config.machines.preferred, name.starts_with('k'), "{name}");
    }
    // As Go writes what is not set.
    let empty = r#"{"default_resource_dir":"","kernel_filepath":"","bin_path":null,
        "rate_limiters":{"bandwidth":{"size":0,"refill_time":0,"new":1},"iops":null}}"#;
    let config = read(empty);
    assert_eq!(config.machines, MachinesConfig::default());
    assert_eq!(read(r#"{"bin_path":["/opt/fc"]}"#).machines.firecracker.bin_path, [PathBuf::from("/opt/fc")]);
    let config = read(r#"{"machine_pool_size":3,"kernel_filepath":"/k"}"#);
    assert_eq!((config.pool.workloads, config.notes.len()), (3, 0));
    let message = NodeConfig::from_nex_json(r#"{"machine_pool_size":0}"#, "c").map(|_| ()).unwrap_err().to_string();
    assert!(message.contains(": machine_pool_size: "), "{message}");
}

#[test]
fn drivers_of_microvms_are_among_those_that_are_offered() {
    let config = toml("").unwrap();
    assert_eq!(config.drivers, ["container", "firecracker", "qemu"]);
    assert!(config.offers_machines() && config.isolation == Isolation::Container);
    assert_eq!(toml("isolation = 'microvm'").unwrap().isolation, Isolation::Microvm);
    let alone = toml("drivers = ['qemu']").unwrap();
    assert_eq!((alone.isolation, alone.sandboxed()), (Isolation::Microvm, true));
    assert!(!toml("drivers = ['container']").unwrap().offers_machines());
    let sized = toml("[resources]\nmemory = '1GiB'\n[guest]\nvcpus = 2").unwrap().machine_resources();
    assert_eq!((sized.memory_bytes, sized.cpu_quota_millis), (Some(1 << 30), Some(2000)));
    assert_eq!(sized.disk_bytes, Some(2 << 30));
}

#[test]
fn broken_json_names_its_line() {
    let message = NodeConfig::from_nex_json("{\n\"tags\": 3}", "config.json").map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("line 2"), "{message}");
}

/// The keys serde knows, from its own complaint about one that it does not.
fn keys_of(table: &str) -> Vec<String> {
    let text = match table {
        "" => "zzz = 1".to_owned(),
        table @ ("autostart" | "pool.templates") => format!("[[{table}]]\nzzz = 1"),
        table => format!("[{table}]\nzzz = 1"),
    };
    let message = refusal(&text);
    let listed = message.split(", expected ").nth(1).unwrap_or_else(|| panic!("{message}"));
    listed.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_reference_names_every_key_in_order() {
    for section in reference::SECTIONS {
        let described: Vec<&str> = section.keys.iter().map(|k| k.name).collect();
        if described == ["NAME"] {
            // Its keys are names that the operator chooses.
            toml(&format!("[{}]\nzzz = 'localhost/image:1'", section.table)).unwrap();
            continue;
        }
        assert_eq!(keys_of(section.table), described, "[{}]", section.table);
    }
}

#[test]
fn docs_config_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.md");
    if std::env::var_os("MOAT_REGENERATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, reference::markdown()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == reference::markdown(), "docs/config.md differs: cargo xtask gen writes it anew");
}

/// `nanobox.toml` as its README prints it.
const NANOBOX: &str = r#"# nanobox.toml

[api]
listen_addr = "0.0.0.0:8080"

[agent]
node_id = "node-01"
firecracker_bin = "/usr/local/bin/firecracker"
rootfs_dir = "/var/lib/nanobox/rootfs"
snapshot_dir = "/var/lib/nanobox/snapshots"

[firecracker]
kernel = "/var/lib/nanobox/kernels/vmlinux-fc"
boot_args = "console=ttyS0 reboot=k panic=1 pci=off init=/sbin/nanobox-init"

[network]
bridge_name = "nanobox-br0"
subnet = "10.100.0.0/16"
host_iface = "eth0"

[oci]
cache_dir = "/var/lib/nanobox/oci-cache"
init_binary = "/usr/local/lib/nanobox/nanobox-init"
dns_server = "10.100.0.1"

[pool]
replenish_interval_sec = 5
max_idle_sec = 600

[[pool.templates]]
name = "node22"
min_ready = 3
max_ready = 10
"#;

#[test]
fn nanobox_toml_is_accepted_unchanged_and_what_has_no_effect_is_named() {
    let config = toml(NANOBOX).unwrap();
    assert_eq!(config.api, ApiConfig { listen: vec!["0.0.0.0:8080".parse().unwrap()], explicit: true });
    assert_eq!(config.name.as_deref(), Some("node-01"));
    assert_eq!(config.oci.cache_dir, Some(PathBuf::from("/var/lib/nanobox/oci-cache")));
    assert_eq!(
        (config.pool.replenish_interval, config.pool.max_idle),
        (Duration::from_secs(5), Duration::from_secs(600))
    );
    let pool = PoolTemplate {
        name: "node22".to_owned(),
        min_ready: 3,
        max_ready: 10,
        image: None,
        network: Default::default(),
        isolation: Isolation::Container,
    };
    assert_eq!(config.pool.templates, [pool]);
    let (mut keys, mut table) = (Vec::new(), String::new());
    for line in NANOBOX.lines() {
        match (line.strip_prefix('['), line.split_once(" = ")) {
            (Some(name), _) => table = name.trim_matches(['[', ']']).to_owned(),
            (None, Some((key, _))) => keys.push(format!("{table}.{key}")),
            _ => {}
        }
    }
    let works = [
        "api.listen_addr",
        "agent.node_id",
        "agent.firecracker_bin",
        "agent.snapshot_dir",
        "firecracker.kernel",
        "oci.cache_dir",
        "network.subnet",
        "network.host_iface",
        "pool.",
        "pool.templates.",
    ];
    assert_eq!(config.network.wanted.subnet, Some("10.100.0.0/16".parse().unwrap()));
    assert_eq!(config.network.net.uplink.as_deref(), Some("eth0"));
    for key in keys.iter().filter(|k| !works.iter().any(|w| k.starts_with(w))) {
        let noted = |n: &&String| n.starts_with(&format!("{key} has no effect on this node because "));
        assert_eq!(config.notes.iter().filter(noted).count(), 1, "{key}: {:?}", config.notes);
    }
    assert_eq!(config.notes.len(), 5);
    assert!(toml(&NANOBOX.replace("bridge_name", "bridge_nam")).is_err());
}

#[test]
fn the_tables_of_the_api_have_defaults_and_an_off() {
    let config = toml("").unwrap();
    assert_eq!((config.api.listen.len(), config.api.explicit), (1, false));
    assert!(config.api.listen[0].ip().is_loopback());
    assert_eq!(config.sandboxes.default_timeout, Some(Duration::from_secs(3600)));
    assert!(toml("[api]\nlisten_addr = []").unwrap().api.listen.is_empty());
    let two = toml("[api]\nlisten_addr = ['localhost:1', '[::1]:2']").unwrap().api.listen;
    assert_eq!(two, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
    assert_eq!((config.proxy.explicit, config.proxy.domain.as_str()), (false, "localhost"));
    let proxy = toml("[proxy]\nlisten = '0.0.0.0:80'\ndomain = 'Box.Example.com'\nhttps = true").unwrap().proxy;
    assert_eq!((proxy.listen.len(), proxy.domain.as_str(), proxy.https), (1, "box.example.com", true));
    assert!(toml("[proxy]\nlisten = []").unwrap().proxy.listen.is_empty());
    let bounded = toml("[sandboxes]\nmax_timeout_sec = 60").unwrap().sandboxes;
    assert_eq!(bounded.default_timeout, Some(Duration::from_secs(60)));
    assert_eq!(toml("[sandboxes]\ndefault_timeout_sec = 0").unwrap().sandboxes.default_timeout, None);
}
