# Whether the job goes on is decided here, on the host: the task may run in a container without
# Slurm's commands, or may have been killed. Nothing but POSIX tools is needed.

dnnjob_restarts=${SLURM_RESTART_COUNT:-0}
dnnjob_job=$SLURM_JOB_ID
# The number of an array's last element is that of the whole array: the pair is unmistakable.
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || dnnjob_job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
dnnjob_runs=$dnnjob_folder/runs_${SLURM_ARRAY_TASK_ID:-0}.txt
dnnjob_ended=$dnnjob_folder/${dnnjob_job}_ended.json
dnnjob_errors=$dnnjob_folder/${dnnjob_job}_0_log.err
# Earlier starts of this job have written there too.
dnnjob_old=$(wc -c 2>/dev/null <"$dnnjob_errors" || echo 0)

# Hears what Slurm says of this job; nothing where it does not answer.
dnnjob_ask() {
    dnnjob_answer=$(scontrol show job -o "$dnnjob_job" 2>/dev/null | head -n 1)
}

# One field of what it said.
dnnjob_field() {
    printf '%s\n' "$dnnjob_answer" | sed -n "s/.* $1=\([^ ]*\).*/\1/p"
}

# Why Slurm ends this job, by what it said: slurm is that it has queued it anew by itself. Nothing
# while it does not end it. As its processes end, a job is COMPLETING, whatever the cause.
dnnjob_fate() {
    if [ "$(dnnjob_field Restarts)" -gt "$dnnjob_restarts" ] 2>/dev/null; then
        echo slurm
        return
    fi
    case "$(dnnjob_field JobState) $(dnnjob_field Reason) $(dnnjob_field PreemptTime)" in
    NODE_FAIL*) echo node_failure ;;
    PREEMPTED* | *' '[0-9]*) echo preempted ;;
    TIMEOUT* | *' TimeLimit '*) echo time_limit ;;
    COMPLETING* | CANCELLED*) echo cancelled ;;
    esac
}

# Whether Slurm has begun to end this job for good, beyond a preemption's time of grace.
dnnjob_is_ended() {
    case $(dnnjob_field JobState) in
    COMPLETING* | CANCELLED* | NODE_FAIL* | PREEMPTED* | TIMEOUT*) ;;
    *) return 1 ;;
    esac
}

# Has Slurm queue the job anew, for the reason $1 where its task could not say why. Else no run goes
# on, and each says why.
dnnjob_requeue() {
    # First the word, then the deed: Slurm ends this script for it.
    dnnjob_note asked "$1"
    dnnjob_begun=$(dnnjob_look | cut -d ' ' -f 3 | sort -n | tail -n 1)
    # Starts in a row in which no run began; that Slurm took the nodes is no fault of theirs.
    dnnjob_vain=$((dnnjob_restarts - ${dnnjob_begun:--1}))
    dnnjob_most=3
    [ "$(dnnjob_fate)" != preempted ] || dnnjob_most=$dnnjob_max_requeues
    dnnjob_said="no run began in its last $dnnjob_vain starts"
    [ "$dnnjob_vain" -gt "$dnnjob_most" ] || ! dnnjob_insist "$1" || return
    dnnjob_note refused "$1"
    dnnjob_said="The run is not queued anew: $dnnjob_said. \`dnnjob resume RUN\` goes on."
    dnnjob_mark REQUEUED FAILED '' "$dnnjob_said"
    [ -z "$1" ] || dnnjob_mark RUNNING FAILED "$1" "$dnnjob_said"
    dnnjob_mark CREATED FAILED error "$dnnjob_said"
}

# Asks for the requeue, and again while the controller is being started anew. Fails where Slurm
# refuses, in its words. (0 is said: in a trap, bash returns what was before the trap.)
dnnjob_insist() {
    dnnjob_said='Slurm does not answer'
    for dnnjob_pause in 1 2 4 8 15 30 60 60 60 60 0; do
        # A job that Slurm has not spoken of may have been cancelled.
        if [ -n "$dnnjob_answer" ]; then
            dnnjob_said=$(scontrol requeue "$dnnjob_job" 2>&1) && return 0
        fi
        dnnjob_ask
        case $(dnnjob_fate) in
        slurm) dnnjob_note slurm "$1"; return 0 ;;
        cancelled) dnnjob_go_on cancelled "$1"; return 0 ;;
        esac
        # A command that says nothing was killed: Slurm ends the whole job for the asking.
        case ${dnnjob_answer:+$dnnjob_said} in
        '' | 'Slurm does not answer' | *[Cc]ontact*controller* | *[Cc]onnect*) ;;
        *imed\ out* | *ero\ [Bb]ytes* | *[Tt]ransport*) ;;
        *) return 1 ;;
        esac
        sleep $dnnjob_pause
    done
    return 1
}

# What becomes of a task that was stopped, by the fate $1 of its job: it goes on, unless somebody
# cancelled it. $2 tells why where the task was killed before it could.
dnnjob_go_on() {
    case $1 in
    slurm) dnnjob_note slurm "$2" ;;
    cancelled)
        dnnjob_note cancelled "${2:+cancelled}"
        [ -z "$2" ] \
            || dnnjob_mark RUNNING CANCELLED cancelled 'Cancelled. `dnnjob resume RUN` goes on.'
        dnnjob_mark REQUEUED CANCELLED cancelled \
            'Cancelled. `dnnjob resume RUN` goes on from its checkpoint.'
        dnnjob_mark CREATED CANCELLED cancelled 'Cancelled before it began.'
        ;;
    *) dnnjob_requeue "$2" ;;
    esac
}

# What becomes of runs whose task was killed before it could say why, by the fate $1 of their job.
dnnjob_killed() {
    dnnjob_why=$1
    [ "$1" != slurm ] || dnnjob_why=preempted
    if [ "$1" != slurm ] && [ "$1" != cancelled ]; then
        dnnjob_said="A submitted run is queued anew at most $dnnjob_max_requeues times, and it has"
        dnnjob_said="$dnnjob_said been. Raise profile.max_requeues for more. \`dnnjob resume RUN\`"
        dnnjob_mark RUNNING FAILED "$1" "$dnnjob_said goes on." "$dnnjob_max_requeues"
        dnnjob_any 'RUNNING|REQUEUED|CREATED' || { dnnjob_note none "$1"; return; }
    fi
    dnnjob_go_on "$1" "$dnnjob_why"
}

# A task that does not answer Slurm's SIGTERM is killed, and with it this script, which waits for
# it. A second shell sees the signal come, and acts before it is killed too: Slurm grants a requeue
# by itself to the preempted, but not at the end of a time limit.
dnnjob_guard() {
    trap 'dnnjob_warned=yes' TERM
    trap : USR1 USR2
    trap - EXIT
    dnnjob_rc=143
    while :; do
        dnnjob_warned=
        while [ -z "$dnnjob_warned" ]; do
            kill -0 $$ || return
            sleep 5 &
            wait $!
        done
        # At once: what follows may come too late.
        dnnjob_ask
        case $(dnnjob_fate) in
        slurm) dnnjob_note slurm preempted ;;
        preempted) dnnjob_note asked preempted ;;
        time_limit) dnnjob_note asked time_limit ;;
        esac
        # The task's own word is better, and it may still be writing its checkpoint.
        dnnjob_waited=0
        while [ "$((dnnjob_waited += 1))" -le "$dnnjob_patience_s" ]; do
            sleep 1 &
            wait $!
            kill -0 $$ || return
        done
        dnnjob_ask
        # Preemption may begin with a time of grace, of which a second signal tells the end.
        if dnnjob_is_ended || [ "$(dnnjob_fate)" = slurm ]; then
            dnnjob_killed "$(dnnjob_fate)"
            return
        fi
    done
}

dnnjob_end() {
    dnnjob_rc=$?
    set +e
    trap - EXIT
    # A shell tells the end of a killed child, unless it is waited for in silence.
    { kill -KILL "$dnnjob_guard" && wait "$dnnjob_guard"; } 2>/dev/null
    # Slurm ends this script, too, once the job is queued anew; it has a few lines left.
    trap '' TERM
    [ "$dnnjob_rc" -eq 0 ] || dnnjob_ask
    if [ "$dnnjob_rc" -ne 0 ] && [ "$(dnnjob_fate)" = slurm ]; then
        dnnjob_note slurm "$(dnnjob_any RUNNING && echo preempted)"
    elif [ "$dnnjob_rc" -ne 0 ] && dnnjob_ran_out_of_memory; then
        dnnjob_used=$(dnnjob_peak)
        dnnjob_told="Killed for its memory: it had asked for $dnnjob_memory"
        dnnjob_told="$dnnjob_told${dnnjob_used:+ and was seen with $dnnjob_used MB}."
        dnnjob_told="$dnnjob_told Raise profile.memory_gb, then \`dnnjob resume RUN\` goes on."
        dnnjob_mark RUNNING FAILED out_of_memory "$dnnjob_told"
        dnnjob_mark REQUEUED FAILED out_of_memory "$dnnjob_told"
        dnnjob_finish_others
    elif [ "$dnnjob_rc" -eq 75 ] || dnnjob_any REQUEUED; then
        dnnjob_go_on "$(dnnjob_fate)"
    elif [ "$dnnjob_rc" -ge 128 ] && ! dnnjob_any RUNNING && dnnjob_any CREATED; then
        # A signal of Slurm's came before the task could listen to it.
        dnnjob_go_on "$(dnnjob_fate)"
    elif [ "$dnnjob_rc" -ge 128 ] && dnnjob_any RUNNING && dnnjob_is_ended; then
        dnnjob_killed "$(dnnjob_fate)"
    elif [ "$dnnjob_rc" -eq 142 ] && dnnjob_any RUNNING; then
        # SIGALRM: the task waited in vain for TensorFlow of another one.
        dnnjob_killed peer_lost
    elif [ "$dnnjob_rc" -ne 0 ]; then
        dnnjob_told="The task ended with exit code $dnnjob_rc. See $dnnjob_errors."
        dnnjob_mark RUNNING FAILED error "$dnnjob_told"
        dnnjob_finish_others
    else
        dnnjob_note none
    fi
    exit "$dnnjob_rc"
}

# The memory in MiB with which the run that was at work was last seen, by Slurm or by itself.
dnnjob_peak() {
    dnnjob_seen=$(dnnjob_said_now \
        | sed -n 's/.*exceeded memory limit (\([0-9][0-9]*\) > .*/\1/p' | tail -n 1)
    if [ -n "$dnnjob_seen" ]; then
        echo $((dnnjob_seen / 1048576))
        return
    fi
    dnnjob_look | while read -r dnnjob_state _ _ dnnjob_run; do
        case $dnnjob_state in RUNNING | REQUEUED) ;; *) continue ;; esac
        sed -n 's/^   "peak_rss_mb": \([0-9][0-9]*\).*/\1/p' \
            "$dnnjob_folder/$dnnjob_run/status.json" | tail -n 1
    done | tail -n 1
}

dnnjob_said_now() {
    tail -c "+$((dnnjob_old + 1))" "$dnnjob_errors" 2>/dev/null
}

# Slurm's own words alone: libraries say such things of GPUs, and go on.
dnnjob_ran_out_of_memory() {
    dnnjob_said_now \
        | grep -qiE '^(slurmstepd|srun).*(oom[-_ ]kill|out of memory|exceeded memory limit)'
}

# Points of a sweep that this task did not come to run in its next start, if it came to any since
# the last: one that gets nowhere, as with setup lines that fail, would get nowhere again.
dnnjob_finish_others() {
    dnnjob_left=$(dnnjob_look | grep -c '^CREATED ')
    dnnjob_before=$(cat "$dnnjob_folder/${dnnjob_job}_left.txt" 2>/dev/null || wc -l <"$dnnjob_runs")
    if [ "$dnnjob_left" -gt 0 ] && [ "$dnnjob_left" -lt "$dnnjob_before" ]; then
        echo "$dnnjob_left" >"$dnnjob_folder/${dnnjob_job}_left.txt"
        dnnjob_go_on "$(dnnjob_fate)"
    else
        dnnjob_note none
        dnnjob_mark CREATED FAILED error \
            "The job ended before the run began, with exit code $dnnjob_rc. See $dnnjob_errors."
    fi
}

dnnjob_guard >/dev/null 2>&1 &
dnnjob_guard=$!
trap dnnjob_end EXIT
# They are for the task, which writes its checkpoint; this script waits for its end.
trap : TERM USR1 USR2
