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

# The last word to `dnnjob status`: the exit code, whether the job goes on, and why it ended where
# its task had no time to say so.
dnnjob_note() {
    printf '{"exit_code": %d, "requeue": "%s", "reason": %s, "restarts": %d, "ended_at": "%s"}\n' \
        "$dnnjob_rc" "$1" "${2:+\"}${2:-null}${2:+\"}" "$dnnjob_restarts" \
        "$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
        >"$dnnjob_ended.tmp" && mv "$dnnjob_ended.tmp" "$dnnjob_ended"
}

# Whether a run of this task says $1 in its status.
dnnjob_any() {
    [ -f "$dnnjob_runs" ] || return 1
    while IFS= read -r dnnjob_run; do
        grep -q "^ $1" "$dnnjob_folder/$dnnjob_run/status.json" 2>/dev/null && return 0
    done <"$dnnjob_runs"
    return 1
}

# Gives every run of this task in state $1 the state $2, the reason $3 (empty: as it is) and the
# error $4: its chief has ended and cannot. Top-level keys stand one blank from the margin.
dnnjob_mark() {
    [ -f "$dnnjob_runs" ] || return 0
    # Neither JSON nor sed shall find its own signs in a path or in Slurm's words.
    dnnjob_text=$(printf %s "$4" | tr '\n' ' ' | tr -d '\\"|&')
    while IFS= read -r dnnjob_run; do
        dnnjob_status=$dnnjob_folder/$dnnjob_run/status.json
        grep -q "^ \"state\": \"$1\"" "$dnnjob_status" 2>/dev/null || continue
        sed -e "s/^ \"state\": .*/ \"state\": \"$2\",/" \
            -e "${3:+s/^ \"reason\": .*/ \"reason\": \"$3\",/}" \
            -e "s|^ \"error\": .*| \"error\": \"$dnnjob_text\",|" \
            "$dnnjob_status" >"$dnnjob_status.tmp" && mv "$dnnjob_status.tmp" "$dnnjob_status"
    done <"$dnnjob_runs"
}

# One field of what Slurm says of this job.
dnnjob_field() {
    scontrol show job -o "$dnnjob_job" 2>/dev/null | sed -n "s/.* $1=\([^ ]*\).*/\1/p" | head -n 1
}

dnnjob_go_on() {
    dnnjob_state=$(dnnjob_field JobState)
    if [ "$(dnnjob_field Restarts)" -gt "$dnnjob_restarts" ] 2>/dev/null; then
        dnnjob_note slurm
        return
    fi
    # While its processes end, a job is COMPLETING, whatever the cause.
    if [ -n "$dnnjob_state" ] && [ "$dnnjob_state" != RUNNING ] \
        && ! dnnjob_any '"reason": "time_limit"'; then
        case $(dnnjob_field PreemptTime) in
        [0-9]*) ;;
        *)
            dnnjob_note cancelled
            dnnjob_mark REQUEUED CANCELLED cancelled \
                'Cancelled. `dnnjob resume RUN` goes on from its checkpoint.'
            dnnjob_mark CREATED CANCELLED cancelled 'Cancelled before it began.'
            return
            ;;
        esac
    fi
    # First the word, then the deed: Slurm ends this script for it.
    dnnjob_note asked
    if [ "$dnnjob_restarts" -ge "$dnnjob_max_requeues" ]; then
        dnnjob_said="it was queued anew $dnnjob_restarts times"
    elif dnnjob_said=$(scontrol requeue "$dnnjob_job" 2>&1); then
        return
    fi
    dnnjob_note refused
    dnnjob_said="The run is not queued anew: $dnnjob_said. \`dnnjob resume RUN\` goes on."
    dnnjob_mark REQUEUED FAILED '' "$dnnjob_said"
    dnnjob_mark CREATED FAILED error "$dnnjob_said"
}

# Whether Slurm is ending this job, whatever the cause.
dnnjob_is_ended() {
    dnnjob_state=$(dnnjob_field JobState)
    [ -n "$dnnjob_state" ] && [ "$dnnjob_state" != RUNNING ]
}

# What becomes of a run whose task was killed before it could say why.
dnnjob_killed() {
    dnnjob_why=preempted
    [ "$(dnnjob_field Reason)" != TimeLimit ] || dnnjob_why=time_limit
    if [ "$(dnnjob_field Restarts)" -gt "$dnnjob_restarts" ] 2>/dev/null; then
        dnnjob_note slurm "$dnnjob_why"
        return
    fi
    if [ "$dnnjob_why" = preempted ] && [ -z "$(dnnjob_field PreemptTime | tr -dc 0-9)" ]; then
        dnnjob_note cancelled cancelled
        dnnjob_mark RUNNING CANCELLED cancelled 'Cancelled. `dnnjob resume RUN` goes on.'
        return
    fi
    dnnjob_note asked "$dnnjob_why"
    if [ "$dnnjob_restarts" -ge "$dnnjob_max_requeues" ]; then
        dnnjob_said="it was queued anew $dnnjob_restarts times"
    elif dnnjob_said=$(scontrol requeue "$dnnjob_job" 2>&1); then
        return
    fi
    dnnjob_note refused "$dnnjob_why"
    dnnjob_mark RUNNING FAILED "$dnnjob_why" \
        "Killed, and not queued anew: $dnnjob_said. \`dnnjob resume RUN\` goes on."
}

# A task that does not answer Slurm's SIGTERM is killed, and with it this script, which waits for
# it. A second shell sees the signal come, and acts before it is killed too: Slurm grants a requeue
# by itself to the preempted, but not at the end of a time limit.
dnnjob_guard() {
    trap 'dnnjob_warned=yes' TERM
    trap : USR1 USR2
    trap - EXIT
    dnnjob_rc=143 dnnjob_warned=
    while [ -z "$dnnjob_warned" ]; do
        kill -0 $$ || return
        sleep 5 &
        wait $!
    done
    # The task's own word is better, and it may still be writing its checkpoint.
    for _ in 1 2 3 4 5 6 7 8; do
        sleep 1 &
        wait $!
        kill -0 $$ || return
    done
    ! dnnjob_is_ended || dnnjob_killed
}

dnnjob_end() {
    dnnjob_rc=$?
    set +e
    trap - EXIT
    # A shell tells the end of a killed child, unless it is waited for in silence.
    { kill -KILL "$dnnjob_guard" && wait "$dnnjob_guard"; } 2>/dev/null
    # Slurm ends this script, too, once the job is queued anew; it has a few lines left.
    trap '' TERM
    if [ "$dnnjob_rc" -ne 0 ] && dnnjob_ran_out_of_memory; then
        dnnjob_used=$(dnnjob_peak)
        dnnjob_told="Killed for its memory: it had asked for $dnnjob_memory"
        dnnjob_told="$dnnjob_told${dnnjob_used:+ and was seen with $dnnjob_used MB}."
        dnnjob_told="$dnnjob_told Raise profile.memory_gb, then \`dnnjob resume RUN\` goes on."
        dnnjob_mark RUNNING FAILED out_of_memory "$dnnjob_told"
        dnnjob_mark REQUEUED FAILED out_of_memory "$dnnjob_told"
        dnnjob_finish_others
    elif [ "$dnnjob_rc" -eq 75 ] || dnnjob_any '"state": "REQUEUED"'; then
        dnnjob_go_on
    elif [ "$dnnjob_rc" -ge 128 ] && ! dnnjob_any '"state": "RUNNING"' \
        && [ "$dnnjob_restarts" -lt 3 ] && dnnjob_any '"state": "CREATED"'; then
        # A signal of Slurm's came before the task could listen to it.
        dnnjob_go_on
    elif [ "$dnnjob_rc" -ge 128 ] && dnnjob_any '"state": "RUNNING"' && dnnjob_is_ended; then
        dnnjob_killed
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
    while IFS= read -r dnnjob_run; do
        grep -q '^ "state": "R[EU]' "$dnnjob_folder/$dnnjob_run/status.json" 2>/dev/null \
            && sed -n 's/^   "peak_rss_mb": \([0-9][0-9]*\).*/\1/p' \
                "$dnnjob_folder/$dnnjob_run/status.json" | tail -n 1
    done <"$dnnjob_runs" | tail -n 1
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
    dnnjob_left=$(dnnjob_count_created)
    dnnjob_before=$(cat "$dnnjob_folder/${dnnjob_job}_left.txt" 2>/dev/null || wc -l <"$dnnjob_runs")
    if [ "$dnnjob_left" -gt 0 ] && [ "$dnnjob_left" -lt "$dnnjob_before" ]; then
        echo "$dnnjob_left" >"$dnnjob_folder/${dnnjob_job}_left.txt"
        dnnjob_go_on
    else
        dnnjob_note none
        dnnjob_mark CREATED FAILED error \
            "The job ended before the run began, with exit code $dnnjob_rc. See $dnnjob_errors."
    fi
}

dnnjob_count_created() {
    [ -f "$dnnjob_runs" ] || { echo 0; return; }
    while IFS= read -r dnnjob_run; do
        grep -l '^ "state": "CREATED"' "$dnnjob_folder/$dnnjob_run/status.json" 2>/dev/null
    done <"$dnnjob_runs" | wc -l
}

dnnjob_guard >/dev/null 2>&1 &
dnnjob_guard=$!
trap dnnjob_end EXIT
# They are for the task, which writes its checkpoint; this script waits for its end.
trap : TERM USR1 USR2
