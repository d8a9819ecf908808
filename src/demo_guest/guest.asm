; The tiny guest: a boot program that counts without end, writes stamps on every BIOS disk, dirties a
; window of RAM, and checks all of it against what it remembers. Whoever moves it to another host can
; see afterwards whether its counter, its memory and its disks came along whole.
; It knows nothing of migration. Assembled by scripts/assemble-guest; read from outside by guest.ts,
; which holds the same layouts and must change together with this file.
;
; Memory (physical): 0x5000 status, 0x6000 variables and stack, 0x7c00 program, 0x9000 the sector that
; is read or written, 0x9200 the sector expected, 0x20000-0x5ffff the last stamp per disk and slot
; (8 x 8192 dwords), above 1 MiB the RAM window.
bits 16
cpu 686
org 0x7c00

SECTORS         equ 4           ; of this image, the boot sector included
SECTOR          equ 0x9000
EXPECTED        equ 0x9200
TABLES_SEG      equ 0x2000      ; one table: 8192 dwords = 0x800 paragraphs
MAX_DISKS       equ 8
HASH_1          equ 0x9e3779b1  ; odd, so that multiplying permutes
HASH_2          equ 0x85ebca6b
BIOS_DISK_COUNT equ 0x475       ; in the BIOS data area
PAGES_AT_ONCE   equ 64          ; handled with interrupts off: well under one timer period
WORDS_PER_PAGE  equ 16          ; checked and written, 256 bytes apart

; Status block. The magic is written last: while it is missing nothing else counts.
status          equ 0x5000
st_magic        equ status + 0  ; "MAG1"
st_n            equ status + 4  ; turns begun
st_bad_disk     equ status + 8  ; sectors that did not hold the last stamp
st_bad_ram      equ status + 12 ; pages that did not hold the last pattern
st_io_errors    equ status + 16 ; failed reads and writes
st_disks        equ status + 20 ; disks in use
st_window_pages equ status + 24 ; the window after it was fitted to the memory
st_lap          equ status + 28 ; whole passes over the window
st_page         equ status + 32 ; next page of the pass
st_bad_where    equ status + 36 ; first bad sector: disk, slot, stamp expected, stamp found
status_end      equ status + 52

; Variables and stack lie in pages without code: an emulator drops what it translated from a page that
; is written to.
absolute 0x6000
packet: resb 2                  ; for int 13h: size, count, buffer, first sector
.count: resw 1
.buffer: resw 2
.lba:   resd 2
slot:   resd 1
ticks:  resd 1                  ; since start_timer
turn_tick: resd 1               ; when this turn was due
strides: resd MAX_DISKS         ; sectors between two slots
drives: resb MAX_DISKS          ; BIOS drive numbers
variables_end:
stack   equ 0x7000

section .text

boot:   cli
        jmp 0:.here
.here:  xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, stack
        sti
        cld
        mov ah, 0x42            ; dl: the drive booted from
        mov si, .rest
        int 0x13
        jnc main
        hlt
        jmp $-1
align 4
.rest:  db 16, 0
        dw SECTORS - 1, params, 0
        dq 1
times 510-($-$$) db 0
        dw 0xaa55

; Parameters: image offset 512, patched by guest.ts.
params: db "MAGP"
disk_mask:      dd 0xff         ; bit i: use BIOS disk 0x80 + i
first_lba:      dd 64           ; nothing below it is touched
slots:          dd 256          ; sectors stamped per disk, spread over all of it; at most 8192
window_base:    dd 0x200000     ; physical address, page-aligned, above 1 MiB
window_pages:   dd 256          ; 0: no window
pages_per_turn: dd 4
tick_divisor:   dd 23864        ; timer ticks come at 1193182 Hz / this (at most 65535)
ticks_per_turn: dd 1            ; a turn begins no sooner after the one before; 0: no rest
report_every:   dd 64           ; turns per line on COM1 and port 0xe9; 0: never

main:   mov di, status
        mov cx, (status_end - status) / 4
        xor eax, eax
        rep stosd
        mov di, packet
        mov cx, variables_end - packet
        rep stosb
        mov word [packet], 16
        mov word [packet.count], 1
        mov word [packet.buffer], SECTOR
        mov bx, MAX_DISKS - 1
.clear: call table              ; a stamp of 0: not known, so not checked
        push es
        mov ax, fs
        mov es, ax
        xor di, di
        xor eax, eax
        mov cx, 0x2000
        rep stosd
        pop es
        dec bx
        jns .clear
        call init_serial
        call fit_window
        call find_disks
        call start_timer
        mov dword [st_magic], "MAG1"
turn:   inc dword [st_n]
        xor bx, bx
.disk:  cmp bx, [st_disks]
        jae .ram
        call disk_turn
        inc bx
        jmp .disk
.ram:   call ram_turn
        call report
        call rest
        jmp turn

; fs = segment of the table of disk bx. Destroys ax.
table:  mov ax, bx
        shl ax, 11
        add ax, TABLES_SEG
        mov fs, ax
        ret

; Fills drives, strides and st_disks: every wanted disk with int 13h extensions, 512-byte sectors and
; room for the slots.
find_disks:
        xor si, si
.next:  movzx ax, byte [BIOS_DISK_COUNT]
        cmp si, ax
        jae .done
        cmp si, MAX_DISKS
        jae .done
        bt [disk_mask], si
        jnc .skip
        mov dx, si
        add dl, 0x80
        mov ah, 0x41
        mov bx, 0x55aa
        int 0x13
        jc .skip
        cmp bx, 0xaa55
        jne .skip
        push si
        mov ah, 0x48
        mov si, SECTOR
        mov word [si], 26       ; size of the answer wanted
        int 0x13
        pop si
        jc .skip
        cmp word [SECTOR + 24], 512
        jne .skip
        mov eax, [SECTOR + 16]
        cmp dword [SECTOR + 20], 0
        je .small
        or eax, -1              ; above 2 TiB: the first 2 TiB
.small: sub eax, [first_lba]
        jbe .skip
        push dx
        xor edx, edx
        div dword [slots]
        pop dx
        test eax, eax
        jz .skip
        mov bx, [st_disks]
        mov [drives + bx], dl
        shl bx, 2
        mov [strides + bx], eax
        inc dword [st_disks]
.skip:  inc si
        jmp .next
.done:  ret

; Disk bx: read the slot of this turn, compare, write the new stamp, remember it.
disk_turn:
        mov eax, [st_n]
        imul eax, eax, HASH_1   ; scattered: consecutive turns are far apart on the disk
        movzx ecx, bx
        add eax, ecx
        xor edx, edx
        div dword [slots]
        mov [slot], edx
        imul edx, [strides + ecx * 4]
        add edx, [first_lba]
        mov [packet.lba], edx
        call table
        mov si, [slot]
        shl si, 2
        mov ah, 0x42
        call disk_io
        jc .done
        mov eax, [fs:si]
        test eax, eax
        jz .write
        mov di, EXPECTED
        call make_sector
        push si
        mov si, SECTOR
        mov di, EXPECTED
        mov cx, 128
        repe cmpsd
        pop si
        je .write
        cmp dword [st_bad_disk], 0
        jne .count
        mov [st_bad_where], bx
        mov ecx, [slot]
        mov [st_bad_where + 4], ecx
        mov [st_bad_where + 8], eax
        mov ecx, [SECTOR + 16]
        mov [st_bad_where + 12], ecx
.count: inc dword [st_bad_disk]
.write: mov eax, [st_n]
        mov di, SECTOR
        call make_sector
        mov dword [fs:si], 0    ; not known while it is being written, and after a failed write
        push eax
        mov ax, 0x4300
        call disk_io
        pop eax
        jc .done
        mov [fs:si], eax
.done:  ret

; The sector that stamp eax makes in the current slot of disk bx, at di. Keeps eax, bx, si.
make_sector:
        pushad
        mov edx, eax
        mov si, text
        mov cx, 4
        rep movsd
        stosd
        mov eax, [slot]
        stosd
        mov eax, ebx
        and eax, 0xffff
        stosd
        mov cx, 128 - 7
.fill:  imul edx, edx, HASH_1
        inc edx
        mov eax, edx
        stosd
        loop .fill
        popad
        ret
text:   db "tiny guest stamp"

; int 13h, function ax, for disk bx with the packet. Carry: failed, and counted. Keeps everything else.
disk_io:
        pushad
        mov dl, [drives + bx]
        mov si, packet
        int 0x13
        popad
        jnc .done
        inc dword [st_io_errors]
        stc
.done:  ret

; Cuts the window to the memory that there is (int 15h E801h: KiB from 1 to 16 MiB, 64 KiB above).
fit_window:
        xor cx, cx
        xor dx, dx
        mov ax, 0xe801
        int 0x15
        movzx eax, ax
        movzx ebx, bx
        shr eax, 2
        shl ebx, 4
        add eax, ebx
        add eax, 0x100          ; pages from address 0 to the end of the memory
        mov ecx, [window_base]
        shr ecx, 12
        sub eax, ecx
        jae .some
        xor eax, eax
.some:  cmp eax, [window_pages]
        jbe .cut
        mov eax, [window_pages]
.cut:   mov [st_window_pages], eax
        ret

; Checks and rewrites the next pages of the window: word j of page p in pass l is
; p * HASH_1 + l * HASH_2 + j. In the first pass there is nothing to check.
ram_turn:
        cmp dword [st_window_pages], 0
        je .ret
        mov ebp, [pages_per_turn]
.batch: test ebp, ebp
        jz .ret
        cli                     ; an interrupt may go through the BIOS's 32-bit code, which ends
        call open_gs            ; the long reach of gs
        mov dh, PAGES_AT_ONCE
.page:  mov edi, [st_page]
        imul ebx, edi, HASH_1
        imul eax, [st_lap], HASH_2
        add eax, ebx
        shl edi, 12
        add edi, [window_base]
        mov dl, 0               ; becomes 1 when the page is bad
        mov cx, WORDS_PER_PAGE
.word:  cmp [gs:edi], eax
        je .same
        mov dl, 1
.same:  lea ebx, [eax + HASH_2]
        mov [gs:edi], ebx
        inc eax
        add edi, 256
        loop .word
        cmp dword [st_lap], 0
        je .next
        movzx ebx, dl
        add [st_bad_ram], ebx
.next:  mov eax, [st_page]
        inc eax
        cmp eax, [st_window_pages]
        jb .same_pass
        xor eax, eax
        inc dword [st_lap]
.same_pass:
        mov [st_page], eax
        dec ebp
        jz .rest
        dec dh
        jnz .page
.rest:  sti
        jmp .batch
.ret:   ret

; gs = all 4 GiB from address 0 ("unreal mode"). Interrupts must be off. Destroys eax.
open_gs:
        lgdt [gdtr]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp .in
.in:    push word 8
        pop gs
        and al, 0xfe
        mov cr0, eax
        jmp .out
.out:   ret

; The timer at our own rate and with our own handler: the BIOS's wait (int 15h 86h) wakes the
; processor a thousand times a second, which costs a third of a core under emulation.
start_timer:
        cli
        mov word [8 * 4], tick
        mov word [8 * 4 + 2], cs
        mov al, 0x34            ; channel 0, periodic
        out 0x43, al
        mov ax, [tick_divisor]
        out 0x40, al
        mov al, ah
        out 0x40, al
        sti
        ret

tick:   push ax
        inc dword [cs:ticks]
        mov al, 0x20
        out 0x20, al
        pop ax
        iret

; Waits until the next turn is due. A guest that was late or stopped does not catch up.
rest:   mov ecx, [ticks_per_turn]
        jecxz .done
        add ecx, [turn_tick]
.wait:  cli                     ; sti lets the hlt begin before an interrupt comes: none is missed
        mov eax, [ticks]
        mov edx, eax
        sub edx, ecx
        jns .due
        sti
        hlt
        jmp .wait
.due:   sti
        mov [turn_tick], eax
.done:  ret

; One line when it is time: n=XXXXXXXX bad=XXXXXXXX io=XXXXXXXX
report: mov ecx, [report_every]
        jecxz .done
        mov eax, [st_n]
        xor edx, edx
        div ecx
        test edx, edx
        jnz .done
        mov si, text_n
        mov eax, [st_n]
        call put_value
        mov eax, [st_bad_disk]
        add eax, [st_bad_ram]
        call put_value
        mov eax, [st_io_errors]
        call put_value
        jmp put_text            ; the line's end
.done:  ret
text_n: db "n=", 0, " bad=", 0, " io=", 0, 13, 10, 0

; The text at si (which moves behind its end), then eax in hexadecimal.
put_value:
        call put_text
        mov cx, 8
.digit: rol eax, 4
        push ax
        and al, 15
        add al, '0'
        cmp al, '9'
        jbe .put
        add al, 'a' - '0' - 10
.put:   call put_char
        pop ax
        loop .digit
        ret

put_text:
        push ax
.next:  lodsb
        test al, al
        jz .done
        call put_char
        jmp .next
.done:  pop ax
        ret

; al to port 0xe9 and COM1; a serial line that stays busy (or is not there) loses the character.
put_char:
        pushad
        out 0xe9, al
        mov bl, al
        mov cx, 0x1000
        mov dx, 0x3fd
.wait:  in al, dx
        test al, 0x20
        loopz .wait
        jz .done
        mov al, bl
        mov dl, 0xf8
        out dx, al
.done:  popad
        ret

init_serial:                    ; COM1: no interrupts, 115200 8n1
        mov si, .pairs
.next:  lodsw
        mov dx, 0x300
        mov dl, al
        mov al, ah
        out dx, al
        cmp si, .end
        jb .next
        ret
.pairs: db 0xf9, 0, 0xfb, 0x80, 0xf8, 1, 0xf9, 0, 0xfb, 3, 0xfa, 7
.end:

align 8
gdt:    dq 0
        dq 0x00cf92000000ffff   ; data, base 0, 4 GiB
gdtr:   dw 15
        dd gdt
times SECTORS*512-($-$$) db 0
