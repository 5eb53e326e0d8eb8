//! `seckill bench`: what this machine makes of the program, and of what people do instead, in one run. The
//! program under test is the real one in a process of its own on stores of its own; the load comes from here.

pub mod alternatives;
mod disk;
mod rate;
mod redis_cpu;

pub use disk::fdatasync;
pub use rate::Rate;
pub use redis_cpu::redis_cpu;
