mod build;
mod cpio;
mod extract;
mod find;
mod hostile;
mod pick;
mod samples;
