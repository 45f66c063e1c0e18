//! Where instances of jobs should run, as a pure function of what is declared, what nodes say and what runs already.
//!
//! No I/O and no clock: the same input gives the same plan. Who carries a plan out is not known here.
