use moat_model::job::allocation::PortMapping;

use super::super::env::{Dirs, Given, cleaned, environment};
use super::super::interpolate::Names;
use super::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn each_name_stands_for_what_the_table_says() {
    let facts = facts();
    let env = map(&[("NOMAD_PORT_http", "8080"), ("HOME", "/root")]);
    let names = Names { facts: &facts, env: &env };
    for (text, wanted) in [
        ("plain", "plain"),
        ("${NOMAD_PORT_http}", "8080"),
        ("--port=${NOMAD_PORT_http}!", "--port=8080!"),
        ("${attr.cpu.arch}-${meta.rack}", "amd64-r1"),
        ("${node.datacenter}/${node.region}/${node.class}/${node.pool}", "dc1/global/big/default"),
        ("${node.unique.name}", "calm-lynx"),
        ("${env[\"HOME\"]}", "/root"),
        ("${ NOMAD_PORT_http }", "8080"),
        ("${attr.unknown} ${meta.none} ${what}", "${attr.unknown} ${meta.none} ${what}"),
        ("${unclosed", "${unclosed"),
        ("$NOMAD_PORT_http", "$NOMAD_PORT_http"),
    ] {
        assert_eq!(names.replaced(text), wanted, "{text}");
    }
}

#[test]
fn the_environment_of_a_task() {
    let mut own = sh("main", "true");
    own.env = map(&[("URL", "http://${NOMAD_ADDR_http}/${NOMAD_META_ROLE}"), ("LANG", "own"), ("A=B", "never")]);
    own.meta = map(&[("role", "front"), ("a-b", "c")]);
    own.resources.cpu_mhz = 250;
    let mut of_group = group(vec![own.clone(), sh("side", "true")]);
    of_group.meta = map(&[("role", "group"), ("dc", "${node.datacenter}")]);
    let job = job(JobType::Service, of_group.clone());
    let assignment = assignment(1, &job);
    let ports = ["http", "side-admin"].iter().zip([(20_001, 80), (20_002, 20_002)]).map(|(label, (host_port, to))| {
        ((*label).to_owned(), PortMapping { host_ip: "192.0.2.7".to_owned(), host_port, to })
    });
    let ports: BTreeMap<String, PortMapping> = ports.collect();
    let dirs = Dirs { alloc: "/alloc".to_owned(), local: "/local".to_owned(), secrets: "/secrets".to_owned() };
    let given = Given {
        allocation: &assignment.allocation,
        job: &job,
        group: &of_group,
        task: &own,
        facts: &facts(),
        ports: &ports,
        port_owner: &map(&[("http", "main"), ("side-admin", "side")]),
        domain: None,
        dirs: &dirs,
        host: &map(&[("LANG", "C"), ("PATH", "/bin"), ("NOMAD_DC", "not this")]),
        templates: &map(&[("FROM_TEMPLATE", "yes")]),
    };
    let env = environment(&given);
    for (key, value) in [
        ("NOMAD_ALLOC_DIR", "/alloc"),
        ("NOMAD_TASK_DIR", "/local"),
        ("NOMAD_SECRETS_DIR", "/secrets"),
        ("NOMAD_SHORT_ALLOC_ID", "00000001"),
        ("NOMAD_ALLOC_NAME", "web.g[0]"),
        ("NOMAD_ALLOC_INDEX", "0"),
        ("NOMAD_TASK_NAME", "main"),
        ("NOMAD_GROUP_NAME", "g"),
        ("NOMAD_JOB_ID", "web"),
        ("NOMAD_NAMESPACE", "default"),
        ("NOMAD_REGION", "global"),
        ("NOMAD_DC", "dc1"),
        ("NOMAD_CPU_LIMIT", "250"),
        ("NOMAD_MEMORY_LIMIT", "64"),
        ("NOMAD_PORT_http", "80"),
        ("NOMAD_HOST_PORT_http", "20001"),
        ("NOMAD_ALLOC_PORT_http", "80"),
        ("NOMAD_IP_http", "192.0.2.7"),
        ("NOMAD_ADDR_http", "192.0.2.7:20001"),
        ("NOMAD_PORT_side_side_admin", "20002"),
        ("NOMAD_ADDR_side_side_admin", "192.0.2.7:20002"),
        ("NOMAD_PORT_side_admin", "20002"),
        ("NOMAD_META_role", "front"),
        ("NOMAD_META_ROLE", "front"),
        ("NOMAD_META_a_b", "c"),
        ("NOMAD_META_DC", "dc1"),
        ("URL", "http://192.0.2.7:20001/front"),
        ("LANG", "own"),
        ("PATH", "/bin"),
        ("FROM_TEMPLATE", "yes"),
    ] {
        assert_eq!(env.get(key).map(String::as_str), Some(value), "{key}");
    }
    let within = environment(&Given { domain: Some("moat.internal"), ..given });
    let sibling = format!("{}-1.member.label.moat.internal", assignment.allocation.id);
    for (key, value) in [
        ("NOMAD_IP_side_side_admin", sibling.clone()),
        ("NOMAD_ADDR_side_side_admin", format!("{sibling}:20002")),
        ("NOMAD_PORT_main_http", "80".to_owned()),
        ("NOMAD_ADDR_http", "192.0.2.7:20001".to_owned()),
    ] {
        assert_eq!(within.get(key), Some(&value), "{key}");
    }
    assert!(!env.contains_key("A=B") && !env.contains_key("NOMAD_JOB_PARENT_ID"));
    assert_eq!(cleaned("a.b-c/ü9_"), "a_b_c__9_");
}
