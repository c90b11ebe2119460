//! The binary: the library's command line, its exit status, and the allocator.

/// Many small blocks that one thread takes and another gives back: the system's allocator spends a third more on them. Without
/// huge pages (its feature `no_thp`): zeroing 2 MiB for each fault was a quarter of the time of large batches, and stayed in
/// memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    sluice::cli::main()
}
