//! Keys of agents that have no meaning here, each with the reason.

use crate::fields::Absent;

const SERVER: &str = "there are no servers of Nomad: nodes meet over NATS";
const CONSUL: &str = "there is no Consul";
const LOG: &str = "the daemon logs to its standard error";
const NETWORK: &str = "the node's own [network] says it";

pub(super) const AGENT: Absent = &[
    ("server", SERVER),
    ("acl", "API keys say who may do what"),
    ("advertise", SERVER),
    ("audit", "there is no audit log of Nomad's kind"),
    ("autopilot", SERVER),
    ("consul", CONSUL),
    ("vault", "there is no Vault"),
    ("sentinel", "there is no Sentinel"),
    ("telemetry", "metrics are served by metrics_listen of the node's own configuration"),
    ("tls", "TLS with NATS is set by [nats], before REST by a proxy"),
    ("ui", "there is no page to show"),
    ("limits", "REST has bounds of its own"),
    ("keyring", SERVER),
    ("reporting", "nothing is reported to anybody"),
    ("rpc", SERVER),
    ("eventlog", LOG),
    ("log_level", LOG),
    ("log_json", LOG),
    ("log_file", LOG),
    ("log_include_location", LOG),
    ("log_rotate_bytes", LOG),
    ("log_rotate_duration", LOG),
    ("log_rotate_max_files", LOG),
    ("enable_syslog", LOG),
    ("syslog_facility", LOG),
    ("enable_debug", "there is nothing to switch on"),
    ("leave_on_interrupt", "client { drain_on_shutdown { } } says what happens at the end"),
    ("leave_on_terminate", "client { drain_on_shutdown { } } says what happens at the end"),
    ("disable_update_check", "nothing asks for updates"),
    ("disable_anonymous_signature", "nothing is reported to anybody"),
    ("http_api_response_headers", "a proxy before REST can add headers"),
    ("plugin_dir", "drivers are part of the node"),
];

pub(super) const ADDRESSES: Absent = &[("rpc", SERVER), ("serf", SERVER)];
pub(super) const PORTS: Absent = &[("rpc", SERVER), ("serf", SERVER)];

pub(super) const CLIENT: Absent = &[
    ("servers", SERVER),
    ("server_join", SERVER),
    ("retry_join", SERVER),
    ("start_join", SERVER),
    ("state_dir", "the node keeps its state in data_dir"),
    ("alloc_mounts_dir", "roots are assembled where no other process sees them"),
    ("network_interface", NETWORK),
    ("network_speed", "bandwidth is limited by the node's own configuration"),
    ("preferred_address_family", "sandboxes have IPv4"),
    ("host_network", NETWORK),
    ("bridge_network_name", NETWORK),
    ("bridge_network_subnet", NETWORK),
    ("bridge_network_subnet_ipv6", NETWORK),
    ("bridge_network_hairpin_mode", NETWORK),
    ("cni_path", "no CNI plugins are run"),
    ("cni_config_dir", "no CNI plugins are run"),
    ("min_port", "drivers are part of the node"),
    ("max_port", "drivers are part of the node"),
    ("no_host_uuid", "a node is known by its key"),
    ("nomad_service_discovery", "services are always found in the cluster's directory"),
    ("node_max_allocs", "resources bound what is placed on a node"),
    ("gc_volumes_on_node_gc", "host volumes are the operator's"),
    ("host_volumes_dir", "host volumes are the operator's"),
    ("host_volume_plugin_dir", "host volumes are the operator's"),
    ("common_plugin_dir", "drivers are part of the node"),
    ("disk_free_mb", "how much is free is found"),
    ("fingerprint", "what a host has is found by itself"),
    ("users", "tasks run as the users jobs name"),
    ("introduction", SERVER),
];

pub(super) const OPTIONS: Absent = &[
    ("fingerprint.", "what a host has is found by itself"),
    ("docker.", "there is no driver docker"),
    ("driver.docker.", "there is no driver docker"),
    ("driver.java.", "there is no driver java"),
    ("driver.qemu.", "there is no driver qemu: microvms are set in [qemu] and [firecracker]"),
    ("driver.", "the driver's plugin \"…\" { config { } } says it"),
    ("user.checked_drivers", "users are checked for exec and raw_exec"),
    ("consul.", CONSUL),
    ("vault.", "there is no Vault"),
    ("test.", "nothing is tested this way"),
];
