//! Guests and monitors that do what they should not.

use moat_engine::driver::Driver as _;

use crate::bed::Bed;

/// A console that is flooded costs what its memory has, and the guest goes on.
#[tokio::test]
async fn a_flooded_console_costs_nothing() {
    let Some(bed) = Bed::new("console") else { return };
    let vm = bed.machine(bed.spec()).await;
    let bytes: u64 = std::env::var("MOAT_TEST_FLOOD_BYTES").ok().and_then(|text| text.parse().ok()).unwrap_or(1 << 20);
    let before = vm.driver.usage(vm.record()).await.unwrap().memory_bytes;
    vm.sh(&format!("test -c /dev/console || exit 0; yes flood | head -c {bytes} > /dev/console")).await;
    let after = vm.driver.usage(vm.record()).await.unwrap().memory_bytes;
    // The guest's own pages come on top as it touches them; the flood does not.
    assert!(after < before + (96 << 20), "{before} became {after}");
    let log = std::fs::metadata(vm.place.run_dir.join("vmm.log")).unwrap().len();
    assert!(log < 64 << 10, "{log}");
    vm.end().await;
}
