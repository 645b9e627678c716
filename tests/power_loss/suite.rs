//! Every part, in the order in which they run.

mod control;
mod damage;
mod differential;
mod disk_full;
mod enumeration;
mod flows;
mod forgets;
mod fs;
mod harness;
mod held_fsync;
mod http;
mod network;
mod nth_fault;
mod restart;
mod script_peer;
mod testnet;
mod town;
mod witness;

use harness::{Level, part};

/// Runs what is selected.
pub fn run() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(restart::CHILD) {
        restart::child(&arguments.collect::<Vec<_>>());
        return std::process::ExitCode::SUCCESS;
    }
    harness::run(&[
        part!(Level::Always, forgets::what_was_not_synced_is_gone),
        part!(Level::Always, forgets::names_are_gone_unless_their_directory_was_synced),
        part!(Level::Always, forgets::a_rename_is_whole_and_lost_or_kept),
        part!(Level::Always, forgets::a_torn_tail_keeps_any_sectors_and_only_whole_ones),
        part!(Level::Always, forgets::the_power_goes_before_the_operation_of_that_number),
        part!(Level::Always, forgets::whoever_has_files_of_a_dead_disk_reaches_nothing),
        part!(Level::Always, forgets::each_fault_fires_on_its_kind_and_number),
        part!(Level::Always, forgets::bytes_of_a_failed_fsync_are_read_and_never_written),
        part!(Level::Always, forgets::a_full_disk_says_so_and_room_comes_back),
        part!(Level::Always, forgets::only_the_held_fsync_waits),
        part!(Level::Always, forgets::a_lying_disk_loses_what_it_said_was_synced),
        part!(Level::Always, forgets::direct_writes_and_reserved_room_work),
        part!(Level::Quick, control::a_disk_that_lies_about_syncs_loses_promises),
        part!(Level::Quick, control::a_store_whose_parent_was_never_synced_is_gone),
        part!(Level::Quick, restart::a_batch_signed_again_after_a_kill_survives_the_cut),
        part!(Level::Quick, restart::without_the_barrier_of_opening_the_batch_is_lost),
        part!(Level::Quick, enumeration::creating_a_store_can_be_cut_anywhere),
        part!(Level::Quick, enumeration::every_promise_of_a_first_life_survives_every_cut),
        part!(Level::Quick, enumeration::every_promise_of_a_later_life_survives_every_cut),
        part!(Level::Quick, enumeration::every_promise_survives_a_second_cut_during_recovery),
        part!(Level::Quick, enumeration::every_promise_survives_a_kill_a_restart_and_then_a_cut),
        part!(Level::Quick, nth_fault::the_nth_fault_stops_the_engine_or_does_not_concern_it),
        part!(Level::Quick, held_fsync::no_promise_leaves_before_its_fsync_and_reads_go_on),
        part!(Level::Quick, disk_full::a_nearly_full_disk_refuses_batches_and_nothing_else),
        part!(Level::Quick, disk_full::a_full_disk_stops_the_engine_and_it_starts_on_it_again),
        part!(Level::Quick, damage::damage_to_any_file_is_told_before_anything_promised_is_missing),
        part!(Level::Quick, damage::a_foreign_or_newer_or_missing_store_is_refused_and_left_alone),
        part!(Level::Quick, differential::the_real_store_leaves_what_the_model_of_it_allows),
        part!(Level::Quick, testnet::a_validator_on_a_failing_disk_ends_with_its_exit_code),
        part!(Level::Full, testnet::a_network_on_disks_that_lie_is_found_out),
        part!(Level::Quick, testnet::a_network_whose_power_goes_at_once_loses_nothing_and_goes_on),
    ])
}
